"use strict";
// Insert text from users and the service only through textContent and attributes, never as HTML.

const { texts, limit, unrecognized, model, version } = JSON.parse(byId("facts").textContent);
const LANGUAGE = document.documentElement.lang;
const NEGLIGIBLE = 0.001; // probabilities below this are not shown in digits, and their classes are folded away
const PERCENT = new Intl.NumberFormat(LANGUAGE, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const SECONDS = new Intl.NumberFormat(LANGUAGE, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

function byId(id) {
  return document.getElementById(id);
}

/** Returns a copy of a template's element. */
function copyOf(template) {
  return byId(template).content.firstElementChild.cloneNode(true);
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

function percent(share) {
  return share > 0 && share < NEGLIGIBLE ? `< ${PERCENT.format(NEGLIGIBLE)}` : PERCENT.format(share);
}

function forPeople(label) {
  return label.replaceAll("_", " ");
}

/** Returns en for ASCII class names; the language of other names is unknown. */
function languageOf(name) {
  return /^\p{ASCII}*$/u.test(name) ? "en" : "";
}

function write(element, text, lang = "") {
  element.textContent = text;
  if (lang) element.lang = lang;
  else element.removeAttribute("lang");
}

/** Has screen readers read a text. */
function announce(text) {
  byId("status").textContent = text;
}
