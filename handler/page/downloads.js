"use strict";
// The answers as files.

const COLUMNS = ["file", "result", "class_id", "class_name", "probability", "error_code", "error_message"];

/** Returns a row per photo by RFC 4180, after a byte order mark, without which Excel takes UTF-8 for another encoding. */
function toCsv(all) {
  return `\ufeff${[COLUMNS, ...all.map(toRow)].map((row) => `${row.map(toCell).join(",")}\r\n`).join("")}`;
}

function toRow({ file, state, answer, error }) {
  const { class_id: id, class_name: name, predictions: [best] = [{}] } = answer ?? {};
  const code = error?.answer?.error?.code;
  return [file.name, state, id, name, best.probability, code, error?.reason || error?.message];
}

function toCell(value = "") {
  // Spreadsheets compute what begins like a formula, and a file's name may be anything.
  const text = String(value).replace(/^\s*[=+\-@＝＋－＠]|^[\t\r\n]/u, "'$&");
  return `"${text.replaceAll('"', '""')}"`;
}

/** Returns an object like the service's answer to several images. */
function toJson(all) {
  const results = all.map(({ file, answer, error }) => ({
    name: file.name,
    ...(answer ?? { success: false, error: error?.answer?.error ?? (error && { message: error.message }) }),
  }));
  return `${JSON.stringify({ success: true, results }, null, 2)}\n`;
}

function download(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
