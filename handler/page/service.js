"use strict";
// Requests to the service, and the token that it may require.

// The page's own address, without the language that a link may have appended.
const ADDRESS = location.pathname.replace(`/${version}/${LANGUAGE}`, "").replace("/explanations/", "/predictions/");
const EXPLANATIONS = ADDRESS.includes("/predictions/")
  ? ADDRESS.replace("/predictions/", "/explanations/")
  : `/explanations/${model}`;
const BUSY = [408, 429, 502, 503, 504];

let token = ""; // kept only in memory
let tokenAsked = null;
let tokenDeclined = false; // until the user's next action

/** Why a photo has no answer. isRefusal: the photo itself was rejected; otherwise trying again may help. */
class AnswerError extends Error {
  constructor(message, { isRefusal = false, answer = null } = {}) {
    super(message);
    this.isRefusal = isRefusal;
    this.answer = answer;
  }

  /** The service's own message, in English. */
  get reason() {
    return this.answer?.error?.message ?? this.answer?.message ?? "";
  }
}

/** Returns the service's answer and its duration in seconds. Prompts for a token if the service requires one. */
async function ask(path, body, signal) {
  for (;;) {
    const used = token;
    const started = performance.now();
    const response = await post(path, body, used, signal);
    const answer = await response.json().catch(() => null);
    if (response.ok && answer?.success) return { answer, seconds: (performance.now() - started) / 1000 };
    const locked = response.status === 401 || answer?.type === "InvalidKeyException"; // from the gateway or from TorchServe
    if (!locked) throw toError(response.status, answer);
    if (!(await askForToken(used))) throw new AnswerError(texts.token_required, { answer });
  }
}

async function post(path, body, bearer, signal) {
  // Only the browser can set a form's type, because it contains the boundary.
  const type = body instanceof FormData ? {} : { "Content-Type": "application/octet-stream" };
  const authorization = bearer ? { Authorization: `Bearer ${bearer}` } : {};
  const headers = { Accept: "application/json", ...type, ...authorization };
  try {
    return await fetch(path, { method: "POST", body, headers, signal });
  } catch {
    throw new AnswerError(texts.unreachable);
  }
}

function toError(status, answer) {
  if (BUSY.includes(status)) return new AnswerError(texts.busy, { answer });
  if (status === 413 && !answer) return tooLarge();
  const code = answer?.error?.code; // TorchServe's own errors have none
  const message = texts[`error_${code}`] ?? fill(texts.http_error, { status });
  return new AnswerError(message, { isRefusal: Boolean(code) && status < 500, answer });
}

function tooLarge() {
  return new AnswerError(fill(texts.file_too_large, { limit: texts.limit }), { isRefusal: true });
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
  dialog.querySelector(".wrong").textContent = used ? texts.token_rejected : "";
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
