"use strict";
// Insert text from users and the service only through textContent and attributes, never as HTML.

const { texts, limit, minimum, model } = JSON.parse(byId("facts").textContent);
const MAX_CONCURRENT = 2; // requests; more would only fill the service's queue
const SHORT_SIDE = 1024; // pixels; a photo that is too large to send is scaled down to this, and the network needs 255
const LONGEST_SIDE = 8192; // pixels; every browser's canvas supports this
const FRAMING = 1024; // bytes of a form in addition to its file and the class id
const ADDRESS = location.pathname.replace("/explanations/", "/predictions/");
const EXPLANATIONS = ADDRESS.includes("/predictions/")
  ? ADDRESS.replace("/predictions/", "/explanations/")
  : `/explanations/${model}`;

let token = ""; // kept only in memory
let tokenAsked = null;
let tokenDeclined = false; // until the user's next action
const waiting = [];
let running = 0;
const progress = { done: 0, all: 0 }; // photos of the current round, which ends when all have an answer

/** The reason why a photo has no answer. fromService: the message is the service's, in English. */
class AnswerError extends Error {
  constructor(message, { fromService = false, code = "", title = texts.failed, answer = null } = {}) {
    super(message);
    Object.assign(this, { fromService, code, title, answer });
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

/** Returns en for ASCII class names; the language of other names is unknown. */
function language(name) {
  return /^\p{ASCII}*$/u.test(name) ? "en" : "";
}

function announce(text) {
  byId("status").textContent = text;
}

/** Announces a photo's result with a count, because screen readers may skip all but the last of several. */
function announceResult(card, text) {
  progress.done += 1;
  const { done, all } = progress;
  announce(`${card.file.name}: ${text}${all > 1 ? ` (${fill(texts.done, { done, all })})` : ""}`);
  if (done === all) Object.assign(progress, { done: 0, all: 0 });
}

// Requests

/** Returns the service's answer and its duration in seconds. Prompts for a token if the service requires one. */
async function ask(path, body) {
  for (;;) {
    const used = token;
    const started = performance.now();
    const response = await post(path, body, used);
    const answer = await response.json().catch(() => null);
    if (response.ok && answer?.success) return { answer, seconds: (performance.now() - started) / 1000 };
    const locked = response.status === 401 || answer?.type === "InvalidKeyException"; // from the gateway or from TorchServe
    if (!locked || !(await askForToken(used))) throw refusal(response, answer);
  }
}

async function post(path, body, bearer) {
  // Only the browser can set a form's type, because it contains the boundary.
  const type = body instanceof FormData ? {} : { "Content-Type": "application/octet-stream" };
  const authorization = bearer ? { Authorization: `Bearer ${bearer}` } : {};
  const headers = { Accept: "application/json", ...type, ...authorization };
  try {
    return await fetch(path, { method: "POST", body, headers });
  } catch {
    throw new AnswerError(texts.unreachable);
  }
}

function refusal(response, answer) {
  const message = answer?.error?.message ?? answer?.message;
  const title = answer?.error ? texts.refused : texts.failed; // TorchServe's own errors have another shape
  if (message) return new AnswerError(message, { fromService: true, code: answer.error?.code, title, answer });
  return response.status === 413 ? tooLarge() : new AnswerError(`${texts.unreachable} (HTTP ${response.status})`);
}

function tooLarge() {
  return new AnswerError(fill(texts.too_large, { limit: texts.limit }), { title: texts.refused });
}

/** Returns whether there is a newer token than the rejected one, or a promise of it. All requests share one prompt. */
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
  // Set after the dialog is open, so that screen readers read it.
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
  while (running < MAX_CONCURRENT && waiting.length) {
    running += 1;
    waiting.shift()().finally(() => {
      running -= 1;
      startNext();
    });
  }
}

/** Returns the upload for a file: the file itself or, if it is too large, a scaled-down image. */
async function prepare(file) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new AnswerError(texts.unreadable); // a folder, or a deleted file
  });
  return file.size <= limit ? file : scaleDown(file);
}

async function scaleDown(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw tooLarge();
  });
  const { width, height } = bitmap;
  const scale = Math.min(1, SHORT_SIDE / Math.min(width, height), LONGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // the service also puts transparency over white
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
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
  } catch (error) {
    showAnswerError(card, error);
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

/** Starts to classify photos after a user's action. */
function begin(...cards) {
  tokenDeclined = false;
  progress.all += cards.length;
  for (const card of cards) enqueue(() => classify(card));
}

function makeCard(file) {
  const element = byId("card").content.firstElementChild.cloneNode(true);
  const card = { file, element, preview: URL.createObjectURL(file), overlays: new Map() };
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
  const { recognized } = answer;
  const best = forPeople(answer.class_name);
  state(card, recognized ? "known" : "unknown");
  put(card, ".best", recognized ? best : texts.unknown, recognized ? language(best) : "");
  put(card, ".message", recognized ? "" : fill(texts.below, { minimum: percent(minimum) }));
  put(card, "pre", JSON.stringify(answer, null, 2), "en");
  const rows = answer.predictions.map((prediction) => makeRow(card, prediction));
  card.element.querySelector(".classes").replaceChildren(...rows);
  const share = recognized ? `, ${percent(answer.predictions[0].probability)}` : "";
  announceResult(card, `${recognized ? best : texts.unknown}${share}`);
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

function showAnswerError(card, error) {
  const isExpected = error instanceof AnswerError;
  state(card, error.code ? "refused" : "failed");
  put(card, ".best", isExpected ? error.title : texts.failed);
  put(card, ".message", error.message, isExpected && !error.fromService ? "" : "en");
  put(card, "pre", error.answer ? JSON.stringify(error.answer, null, 2) : "", "en");
  announceResult(card, error.message);
}

// Explanations

async function toggle(card, button, id, name) {
  const isPressed = () => button.getAttribute("aria-pressed") === "true";
  const pressed = isPressed();
  for (const other of card.element.querySelectorAll(".class")) other.setAttribute("aria-pressed", "false");
  if (pressed) return showPreview(card);
  button.setAttribute("aria-pressed", "true");
  button.setAttribute("aria-busy", "true");
  tokenDeclined = false;
  try {
    const overlay = await explain(card, id);
    if (isPressed()) showOverlay(card, overlay, name);
  } catch (error) {
    if (!isPressed()) return; // the user has pressed another button, or this one again
    button.setAttribute("aria-pressed", "false");
    showPreview(card);
    put(card, ".seen", error.message, error.fromService ? "en" : "");
    announce(error.message);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** Returns a class's overlay as a data URL. Requests it once; after an error, the next call requests it again. */
function explain(card, id) {
  if (!card.overlays.has(id)) {
    const overlay = requestOverlay(card, id);
    overlay.catch(() => card.overlays.delete(id));
    card.overlays.set(id, overlay);
  }
  return card.overlays.get(id);
}

async function requestOverlay(card, id) {
  const fits = card.body.size + new Blob([id]).size + FRAMING <= limit;
  const form = new FormData(); // unlike a header, it supports names that are not Latin-1
  form.append("target", id);
  form.append("overlays", "picture");
  form.append("file", fits ? card.body : await scaleDown(card.body), "photo");
  const { answer } = await ask(EXPLANATIONS, form);
  const explanation = answer.explanations?.find(({ class_id: other }) => other === id);
  if (!explanation) throw new AnswerError(texts.failed);
  return `data:image/png;base64,${explanation.picture}`;
}

function showOverlay(card, overlay, name) {
  const image = card.element.querySelector("img");
  card.element.classList.remove("blind");
  image.src = overlay;
  image.alt = fill(texts.seen, { label: name });
  put(card, ".seen", image.alt);
  announce(image.alt);
}

// Copying

function shellQuote(word) {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function asCurl(name) {
  const path = name.startsWith("-") ? `./${name}` : name;
  const noGlob = /[[\]{}]/.test(path) ? ["--globoff"] : []; // curl would expand brackets and braces
  const authorization = token ? ["-H", '"Authorization: Bearer $TOKEN"'] : [];
  return ["curl", ...noGlob, ...authorization, "-T", shellQuote(path), shellQuote(location.origin + ADDRESS)].join(" ");
}

async function copy(card, button) {
  const command = asCurl(card.file.name);
  try {
    await navigator.clipboard.writeText(command); // exists only on https and loopback
    button.textContent = texts.copied;
    announce(texts.copied);
    setTimeout(() => (button.textContent = texts.curl), 2000);
  } catch {
    put(card, ".note", command, "en");
    getSelection().selectAllChildren(card.element.querySelector(".note"));
  }
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
