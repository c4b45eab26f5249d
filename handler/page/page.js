"use strict";
// Whatever a person or the service supplies goes into the page by textContent and attributes, never as HTML.

const { texts, limit, least, model } = JSON.parse(byId("facts").textContent);
const AT_ONCE = 2; // requests under way; more would only fill the service's queue
const SHORT_SIDE = 1024; // pixels, of a photo too large to send; the network looks at 255
const LONGEST_SIDE = 8192; // pixels that every browser's canvas can hold
const FRAMING = 1024; // bytes that a form takes beside its file and the class's name
const ADDRESS = location.pathname.replace("/explanations/", "/predictions/");
const EXPLANATIONS = ADDRESS.includes("/predictions/")
  ? ADDRESS.replace("/predictions/", "/explanations/")
  : `/explanations/${model}`;

let token = ""; // kept nowhere else
let tokenAsked = null;
let tokenDeclined = false; // until a person asks for something anew
const waiting = [];
let running = 0;
const progress = { done: 0, all: 0 }; // photos asked about since all were answered last

/** Why a photo has no answer. own: the service's own words, which are English. */
class Problem extends Error {
  constructor(message, { own = false, code = "", title = texts.failed, answer = null } = {}) {
    super(message);
    Object.assign(this, { own, code, title, answer });
  }
}

function byId(id) {
  return document.getElementById(id);
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1%" : `${(100 * share).toFixed(1)}%`;
}

function forPeople(label) {
  return label.replaceAll("_", " ");
}

/** Names of classes are English; of one that cannot be, nobody has said what it is. */
function language(name) {
  return /^\p{ASCII}*$/u.test(name) ? "en" : "";
}

function announce(text) {
  byId("status").textContent = text;
}

/** What became of a photo. Of several at once only the last may be heard: so how many there are is told, too. */
function announceResult(card, text) {
  progress.done += 1;
  const { done, all } = progress;
  announce(`${card.file.name}: ${text}${all > 1 ? ` (${fill(texts.done, { done, all })})` : ""}`);
  if (done === all) Object.assign(progress, { done: 0, all: 0 });
}

// Asking

/** The service's answer, and how many seconds it took; asks for a token where one is wanted. */
async function ask(path, body) {
  for (;;) {
    const used = token;
    const started = performance.now();
    const response = await post(path, body, used);
    const answer = await response.json().catch(() => null);
    if (response.ok && answer?.success) return { answer, seconds: (performance.now() - started) / 1000 };
    const locked = response.status === 401 || answer?.type === "InvalidKeyException"; // the front's word, TorchServe's
    if (!locked || !(await askForToken(used))) throw refusal(response, answer);
  }
}

async function post(path, body, bearer) {
  // A form's type names its boundary, which the browser alone knows.
  const type = body instanceof FormData ? {} : { "Content-Type": "application/octet-stream" };
  const authorization = bearer ? { Authorization: `Bearer ${bearer}` } : {};
  const headers = { Accept: "application/json", ...type, ...authorization };
  try {
    return await fetch(path, { method: "POST", body, headers });
  } catch {
    throw new Problem(texts.unreachable);
  }
}

function refusal(response, answer) {
  const message = answer?.error?.message ?? answer?.message;
  const title = answer?.error ? texts.refused : texts.failed; // TorchServe's own refusals have another shape
  if (message) return new Problem(message, { own: true, code: answer.error?.code, title, answer });
  return response.status === 413 ? tooLarge() : new Problem(`${texts.unreachable} (HTTP ${response.status})`);
}

function tooLarge() {
  return new Problem(fill(texts.too_large, { limit: texts.limit }), { title: texts.refused });
}

/** Whether there is now another token than the one used in vain, or a promise of it; all requests share one question. */
function askForToken(used) {
  if (token !== used) return true;
  if (tokenDeclined) return false;
  tokenAsked ??= openTokenDialog(used).finally(() => (tokenAsked = null));
  return tokenAsked;
}

function openTokenDialog(used) {
  const dialog = byId("token");
  const input = byId("token-text");
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  // In the open dialog, so that it is read out.
  dialog.querySelector(".wrong").textContent = used ? texts.token_wrong : "";
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(takeToken(dialog, input)), { once: true });
  });
}

function takeToken(dialog, input) {
  const given = dialog.returnValue === "go" && input.value.trim();
  input.value = "";
  if (given) token = given;
  tokenDeclined = !given;
  return Boolean(given);
}

// Sending

function enqueue(job) {
  waiting.push(job);
  startNext();
}

function startNext() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    waiting.shift()().finally(() => {
      running -= 1;
      startNext();
    });
  }
}

/** What is sent of a file: the file itself, and only if that is too large, a smaller picture of it. */
async function prepare(file) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Problem(texts.unreadable); // a folder, or a file that is gone
  });
  return file.size <= limit ? file : scaleDown(file);
}

async function scaleDown(file) {
  const picture = await createImageBitmap(file).catch(() => {
    throw tooLarge();
  });
  const { width, height } = picture;
  const scale = Math.min(1, SHORT_SIDE / Math.min(width, height), LONGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the service does with transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const smaller = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  if (!smaller || smaller.size > limit) throw tooLarge();
  return smaller;
}

async function classify(card) {
  state(card, "busy");
  put(card, ".best", texts.looking);
  try {
    card.body ??= await prepare(card.file);
    if (card.body !== card.file) put(card, ".note", fill(texts.scaled, { limit: texts.limit }));
    const { answer, seconds } = await ask(ADDRESS, card.body);
    put(card, ".time", fill(texts.seconds, { seconds: seconds.toFixed(2) }));
    showAnswer(card, answer);
  } catch (problem) {
    showProblem(card, problem);
  }
}

// Cards

function put(card, selector, text, lang = "") {
  write(card.element.querySelector(selector), text, lang);
}

function write(element, text, lang) {
  element.textContent = text;
  if (lang) element.lang = lang;
  else element.removeAttribute("lang");
}

function state(card, name) {
  card.element.dataset.state = name;
}

function add(files) {
  if (!files.length) return;
  document.body.classList.add("answered");
  const cards = Array.from(files, makeCard);
  byId("results").prepend(...cards.map((card) => card.element));
  begin(...cards);
}

/** A person asks about photos. */
function begin(...cards) {
  tokenDeclined = false;
  progress.all += cards.length;
  for (const card of cards) enqueue(() => classify(card));
}

function makeCard(file) {
  const element = byId("card").content.firstElementChild.cloneNode(true);
  const card = { file, element, preview: URL.createObjectURL(file), seen: new Map() };
  state(card, "waiting");
  put(card, ".file", file.name);
  put(card, ".best", texts.waiting);
  showPreview(card);
  element.querySelector("img").addEventListener("error", () => element.classList.add("blind"));
  element.querySelector(".photo").dataset.missing = texts.no_preview;
  element.querySelector(".retry").addEventListener("click", () => retry(card));
  element.querySelector(".curl").addEventListener("click", (event) => copy(card, event.currentTarget));
  return card;
}

function retry(card) {
  put(card, ".message", "");
  begin(card);
}

function showPreview(card) {
  const image = card.element.querySelector("img");
  image.src = card.preview;
  image.alt = card.file.name;
  put(card, ".seen", "");
}

function showAnswer(card, answer) {
  const known = answer.recognized;
  const best = forPeople(answer.class_name);
  state(card, known ? "known" : "unknown");
  put(card, ".best", known ? best : texts.unknown, known ? language(best) : "");
  put(card, ".message", known ? "" : fill(texts.below, { least: percent(least) }));
  put(card, "pre", JSON.stringify(answer, null, 2), "en");
  const rows = answer.predictions.map((prediction) => makeRow(card, prediction));
  card.element.querySelector(".classes").replaceChildren(...rows);
  const share = known ? `, ${percent(answer.predictions[0].probability)}` : "";
  announceResult(card, `${known ? best : texts.unknown}${share}`);
}

function makeRow(card, { class_id: id, label, probability }) {
  const row = byId("class").content.firstElementChild.cloneNode(true);
  const button = row.querySelector("button");
  const name = forPeople(label);
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  write(button.querySelector(".name"), name, language(name));
  button.querySelector(".id").textContent = id === label ? "" : id;
  button.querySelector(".share").textContent = percent(probability);
  const bar = button.querySelector("rect");
  requestAnimationFrame(() => bar.setAttribute("width", `${100 * probability}%`));
  button.addEventListener("click", () => toggle(card, button, id, name));
  return row;
}

function showProblem(card, problem) {
  const known = problem instanceof Problem;
  state(card, problem.code ? "refused" : "failed");
  put(card, ".best", known ? problem.title : texts.failed);
  put(card, ".message", problem.message, known && !problem.own ? "" : "en");
  put(card, "pre", problem.answer ? JSON.stringify(problem.answer, null, 2) : "", "en");
  announceResult(card, problem.message);
}

// Where a class was seen

async function toggle(card, button, id, name) {
  const isPressed = () => button.getAttribute("aria-pressed") === "true";
  const pressed = isPressed();
  for (const other of card.element.querySelectorAll(".class")) other.setAttribute("aria-pressed", "false");
  if (pressed) return showPreview(card);
  button.setAttribute("aria-pressed", "true");
  button.setAttribute("aria-busy", "true");
  tokenDeclined = false;
  try {
    const picture = await explain(card, id);
    if (isPressed()) showSeen(card, picture, name);
  } catch (problem) {
    if (!isPressed()) return; // by now another one is, or none
    button.setAttribute("aria-pressed", "false");
    showPreview(card);
    put(card, ".seen", problem.message, problem.own ? "en" : "");
    announce(problem.message);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** Asks once, however often it is called; after a failure anew. */
function explain(card, id) {
  if (!card.seen.has(id)) {
    const picture = askWhere(card, id);
    picture.catch(() => card.seen.delete(id));
    card.seen.set(id, picture);
  }
  return card.seen.get(id);
}

async function askWhere(card, id) {
  const fits = card.body.size + new Blob([id]).size + FRAMING <= limit;
  const form = new FormData(); // a header holds no name but in Latin letters
  form.append("target", id);
  form.append("overlays", "picture");
  form.append("file", fits ? card.body : await scaleDown(card.body), "photo");
  const { answer } = await ask(EXPLANATIONS, form);
  const found = answer.explanations?.find((explanation) => explanation.class_id === id);
  if (!found) throw new Problem(texts.failed);
  return `data:image/png;base64,${found.picture}`;
}

function showSeen(card, picture, name) {
  const image = card.element.querySelector("img");
  card.element.classList.remove("blind");
  image.src = picture;
  image.alt = fill(texts.seen, { label: name });
  put(card, ".seen", image.alt);
  announce(image.alt);
}

// Copying

function quoted(word) {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function asCurl(name) {
  const path = name.startsWith("-") ? `./${name}` : name;
  const plain = /[[\]{}]/.test(path) ? ["--globoff"] : []; // brackets and braces mean several files to curl
  const authorization = token ? ["-H", '"Authorization: Bearer $TOKEN"'] : [];
  return ["curl", ...plain, ...authorization, "-T", quoted(path), quoted(location.origin + ADDRESS)].join(" ");
}

async function copy(card, button) {
  const command = asCurl(card.file.name);
  try {
    await navigator.clipboard.writeText(command); // there is none but on https and loopback
    button.textContent = texts.copied;
    announce(texts.copied);
    setTimeout(() => (button.textContent = texts.curl), 2000);
  } catch {
    put(card, ".note", command, "en");
    getSelection().selectAllChildren(card.element.querySelector(".note"));
  }
}

// Ways in

function listenTo(input) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return; // which would post the form; it looks like a button, and those take both keys
    event.preventDefault();
    input.click();
  });
}

function listen() {
  const zone = document.querySelector(".zone");
  for (const input of zone.querySelectorAll("input")) listenTo(input);
  byId("file").multiple = true;
  zone.querySelector(".choose").textContent = texts.choose;
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
}

listen();
document.documentElement.classList.add("js");
