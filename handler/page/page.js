"use strict";
// The photos, their requests, and the user's input.

const MAX_CONCURRENT = 2; // requests; more would only fill the service's queue

// Newest batch first; in a batch, in the order chosen. state: waiting, busy, recognized, unrecognized, refused (the
// photo was rejected) or unanswered (trying again may help).
const photos = [];
const round = new Set(); // photos since none was waiting
const classifying = makeQueue(MAX_CONCURRENT);
const drawing = makeQueue(1); // decoding takes memory

/** Returns a function that runs asynchronous jobs in order, so many at a time. */
function makeQueue(concurrency) {
  const jobs = [];
  let running = 0;
  function startNext() {
    while (running < concurrency && jobs.length) {
      running += 1;
      jobs.shift()().finally(() => {
        running -= 1;
        startNext();
      });
    }
  }
  return (job) => {
    jobs.push(job);
    startNext();
  };
}

function isPending({ state }) {
  return state === "waiting" || state === "busy";
}

function progress() {
  const done = [...round].filter((photo) => !isPending(photo)).length;
  return { done, total: round.size };
}

function add(files) {
  if (!files.length) return;
  const added = Array.from(files, (file) => ({ file, overlays: new Map() }));
  photos.unshift(...added);
  chooseFilter(""); // so that the new photos are shown
  begin(added);
}

/** Starts to classify photos after a user's action. */
function begin(some) {
  tokenDeclined = false;
  if (![...round].some(isPending)) round.clear();
  for (const photo of some) {
    const canceling = new AbortController();
    round.add(photo);
    update(photo, { state: "waiting", answer: null, error: null, canceling });
    classifying(() => classify(photo, canceling.signal));
  }
  arrange();
}

async function classify(photo, signal) {
  if (signal.aborted) return;
  update(photo, { state: "busy" });
  try {
    photo.body ??= await prepare(photo.file);
    const { answer, seconds } = await ask(ADDRESS, photo.body, signal);
    if (signal.aborted) return;
    update(photo, { state: answer.recognized ? "recognized" : "unrecognized", answer, seconds });
  } catch (thrown) {
    if (signal.aborted) return;
    const error = thrown instanceof AnswerError ? thrown : new AnswerError(texts.no_answer);
    update(photo, { state: error.isRefusal ? "refused" : "unanswered", error });
  }
  announceResult(photo);
}

function update(photo, changes) {
  Object.assign(photo, changes);
  if (photo.card) updateCard(photo);
  if (photo.tile) updateTile(photo);
  updateOverview();
  if (viewed) updateViewer();
}

/** Announces a photo's result; of several photos only how many are done, because they would interrupt each other. */
function announceResult({ file, state, answer, error }) {
  const { done, total } = progress();
  if (total === 1) {
    const best = answer?.predictions[0];
    const result = state === "recognized" ? `${forPeople(best.label)}, ${percent(best.probability)}` : HEADINGS[state];
    announce(`${file.name}: ${error?.message ?? result}`);
  } else if (done === total) announce(summary());
  else if (done % 10 === 0) announce(fill(texts.progress, { done, total }));
}

function cancel() {
  const error = new AnswerError(texts.canceled);
  for (const photo of photos.filter(isPending)) {
    photo.canceling.abort();
    Object.assign(photo, { state: "unanswered", error });
    updateTile(photo);
  }
  updateOverview();
  announce(summary());
  byId("retry-all").focus();
}

function remove(some) {
  const wasViewed = some.includes(viewed);
  const shown = photos.filter((photo) => isShown(photo.state) || photo === some[0]);
  const place = shown.indexOf(some[0]);
  const neighbour = [...shown.slice(place + 1), ...shown.slice(0, place).reverse()].find((photo) => !some.includes(photo));
  for (const photo of some) {
    photo.canceling.abort();
    photo.isRemoved = true;
    if (photo.card) discardCard(photo);
    photo.tile?.remove();
    URL.revokeObjectURL(photo.thumbnail);
    photos.splice(photos.indexOf(photo), 1);
    round.delete(photo);
  }
  if (wasViewed) viewed = null;
  arrange();
  if (wasViewed && neighbour && photos.length > 1) view(neighbour);
  else if (wasViewed) byId("viewer").close();
  placeToGoOn(neighbour).focus();
}

/** Returns the button to focus after a photo was removed. */
function placeToGoOn(neighbour) {
  if (!photos.length) return byId("file");
  const { card, tile } = neighbour ?? {};
  return (card ?? tile)?.querySelector(".remove") ?? document.querySelector(".filter");
}

/** Shows one photo as a card, and several as tiles. */
function arrange() {
  const areSeveral = photos.length > 1;
  document.body.classList.toggle("answered", photos.length > 0);
  // Another language is another page, which would not have the photos.
  for (const link of document.querySelectorAll(".languages a")) link.target = photos.length ? "_blank" : "";
  for (const photo of photos) if (areSeveral && photo.card && photo !== viewed) discardCard(photo);
  if (photos.length === 1 && photos[0].card) return;
  byId("cards").replaceChildren(...(areSeveral ? [] : photos.map(makeCard)));
  if (areSeveral) byId("tiles").prepend(...photos.filter(({ tile }) => !tile).map(makeTile));
  byId("overview").hidden = byId("tiles").hidden = !areSeveral;
  updateOverview();
}

// Input

function listenTo(input) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    // Enter would post the form, but the input looks like a button, so Enter must open the file dialog.
    event.preventDefault();
    input.click();
  });
}

function listen() {
  const zone = document.querySelector(".zone");
  for (const input of zone.querySelectorAll("input")) listenTo(input);
  zone.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("paste", (event) => add(event.clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add(event.dataTransfer.files);
  });
  listenToTiles();
}

listen();
document.documentElement.classList.add("js");
