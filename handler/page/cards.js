"use strict";
// The full card of a photo: its answer, where classes were seen, and the request as a command.

const HEADINGS = {
  waiting: texts.waiting,
  busy: texts.classifying,
  recognized: "", // its best class
  unrecognized: texts.not_recognized,
  refused: texts.refused,
  unanswered: texts.no_answer,
};
const FRAMING = 1024; // bytes of a form in addition to its file and the class id

/** Makes the card of a photo, which updateCard() keeps up to date until discardCard(). */
function makeCard(photo) {
  const card = copyOf("card");
  photo.card = card;
  photo.preview = URL.createObjectURL(photo.file);
  put(photo, ".file", photo.file.name);
  card.querySelector("img").addEventListener("error", () => card.classList.add("blind"));
  card.querySelector(".photo").dataset.missing = texts.no_preview;
  card.querySelector(".retry").addEventListener("click", () => begin([photo]));
  card.querySelector(".curl").addEventListener("click", (event) => copyCommand(photo, event.currentTarget));
  card.querySelector(".remove").addEventListener("click", () => remove([photo]));
  showPreview(photo);
  updateCard(photo);
  return card;
}

function discardCard(photo) {
  URL.revokeObjectURL(photo.preview);
  photo.card.remove();
  photo.card = null;
}

function put(photo, selector, text, lang) {
  write(photo.card.querySelector(selector), text, lang);
}

function showPreview(photo) {
  const image = photo.card.querySelector("img");
  image.src = photo.preview;
  image.alt = photo.file.name;
  photo.card.classList.remove("heated");
  put(photo, ".explained", "");
}

function updateCard(photo) {
  const { card, state, answer, error } = photo;
  card.dataset.state = state;
  const isScaled = photo.body && photo.body !== photo.file;
  put(photo, ".note", isScaled ? fill(texts.scaled_down, { limit: texts.limit }) : "");
  put(photo, ".time", answer ? fill(texts.seconds, { number: SECONDS.format(photo.seconds) }) : "");
  put(photo, ".json summary", error ? texts.details : "JSON");
  put(photo, ".reason", error?.reason ?? "", "en");
  const json = answer ?? error?.answer;
  put(photo, "pre", json ? JSON.stringify(json, null, 2) : "", "en");
  put(photo, ".best", HEADINGS[state]);
  put(photo, ".message", error?.message ?? (state === "unrecognized" ? unrecognized : ""));
  const predictions = answer?.predictions ?? [];
  if (state === "recognized") card.querySelector(".best").replaceChildren(makeRow(photo, predictions[0]));
  const others = predictions.slice(state === "recognized" ? 1 : 0);
  // The first row is never folded away, however small its probability.
  const isShown = ({ probability }, i) => probability >= NEGLIGIBLE || (i === 0 && state !== "recognized");
  const more = others.filter((prediction, i) => !isShown(prediction, i));
  const values = { count: more.length, share: percent(NEGLIGIBLE).replace(/^< /, "") };
  put(photo, ".more summary", more.length ? fill(texts.more_classes, values) : "");
  card.querySelector(".answer > .classes").replaceChildren(...makeItems(photo, others.filter(isShown)));
  card.querySelector(".more .classes").replaceChildren(...makeItems(photo, more));
}

function makeItems(photo, predictions) {
  return predictions.map((prediction) => {
    const item = document.createElement("li");
    item.append(makeRow(photo, prediction));
    return item;
  });
}

function makeRow(photo, { class_id: id, label, probability }) {
  const button = copyOf("class");
  const name = forPeople(label);
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  write(button.querySelector(".name"), name, languageOf(name));
  button.querySelector(".id").textContent = id === label ? "" : id;
  button.querySelector(".share").textContent = percent(probability);
  const bar = button.querySelector("rect");
  requestAnimationFrame(() => bar.setAttribute("width", `${100 * probability}%`));
  button.addEventListener("click", () => toggle(photo, button, id, name));
  return button;
}

// Explanations

async function toggle(photo, button, id, name) {
  const { card } = photo;
  // The user may have pressed another button since, or this one again, or have closed the card.
  const isPressed = () => photo.card === card && button.getAttribute("aria-pressed") === "true";
  const pressed = isPressed();
  for (const other of card.querySelectorAll(".class")) other.setAttribute("aria-pressed", "false");
  if (pressed) return showPreview(photo);
  button.setAttribute("aria-pressed", "true");
  button.setAttribute("aria-busy", "true");
  tokenDeclined = false;
  try {
    const overlay = await explain(photo, id);
    if (isPressed()) showOverlay(photo, overlay, name);
  } catch (error) {
    if (!isPressed()) return;
    button.setAttribute("aria-pressed", "false");
    showPreview(photo);
    put(photo, ".explained", error.message);
    announce(error.message);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** Returns a class's overlay as a data URL. Requests it once; after an error, the next call requests it again. */
function explain(photo, id) {
  if (!photo.overlays.has(id)) {
    const overlay = requestOverlay(photo, id);
    overlay.catch(() => photo.overlays.delete(id));
    photo.overlays.set(id, overlay);
  }
  return photo.overlays.get(id);
}

async function requestOverlay({ body }, id) {
  const fits = body.size + new Blob([id]).size + FRAMING <= limit;
  const form = new FormData(); // unlike a header, it supports names that are not Latin-1
  form.append("target", id);
  form.append("overlays", "picture");
  form.append("file", fits ? body : await scaleDown(body), "photo");
  const { answer } = await ask(EXPLANATIONS, form);
  const explanation = answer.explanations?.find(({ class_id: other }) => other === id);
  if (!explanation) throw new AnswerError(texts.no_answer);
  return `data:image/png;base64,${explanation.picture}`;
}

function showOverlay(photo, overlay, name) {
  const image = photo.card.querySelector("img");
  photo.card.classList.remove("blind");
  photo.card.classList.add("heated");
  image.src = overlay;
  image.alt = fill(texts.explained, { label: name });
  put(photo, ".explained", image.alt);
  announce(image.alt);
}

// The request as a command

function shellQuote(word) {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function asCurl(name) {
  const path = name.startsWith("-") ? `./${name}` : name;
  const noGlob = /[[\]{}]/.test(path) ? ["--globoff"] : []; // curl would expand brackets and braces
  const authorization = token ? ["-H", '"Authorization: Bearer $TOKEN"'] : [];
  return ["curl", ...noGlob, ...authorization, "-T", shellQuote(path), shellQuote(location.origin + ADDRESS)].join(" ");
}

async function copyCommand(photo, button) {
  const command = asCurl(photo.file.name);
  try {
    await navigator.clipboard.writeText(command); // exists only on https and loopback
    button.textContent = texts.copied;
    announce(texts.copied);
    setTimeout(() => (button.textContent = texts.copy_curl), 2000);
  } catch {
    put(photo, ".note", command, "en");
    getSelection().selectAllChildren(photo.card.querySelector(".note"));
  }
}
