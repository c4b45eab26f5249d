"use strict";
// Several photos: a grid of tiles that open their cards in a dialog, with counts and filters above.

let filter = ""; // a state, or all
let viewed = null; // the photo whose card is in the dialog

function makeTile(photo) {
  const tile = copyOf("tile");
  photo.tile = tile;
  const image = tile.querySelector("img");
  image.alt = photo.file.name;
  tile.title = tile.querySelector(".thumb").dataset.name = photo.file.name;
  tile.querySelector(".open").addEventListener("click", () => view(photo));
  const button = tile.querySelector(".remove");
  button.setAttribute("aria-label", `${texts.remove}: ${photo.file.name}`);
  button.addEventListener("click", () => remove([photo]));
  drawing(() => showThumbnail(photo));
  updateTile(photo);
  return tile;
}

async function showThumbnail(photo) {
  if (photo.isRemoved) return;
  const thumbnail = await makeThumbnail(photo.file).catch(() => null);
  if (photo.isRemoved) return;
  if (!thumbnail) return photo.tile.classList.add("blind");
  photo.thumbnail = URL.createObjectURL(thumbnail);
  photo.tile.querySelector("img").src = photo.thumbnail;
}

function updateTile({ tile, state, answer, error }) {
  tile.dataset.state = state;
  tile.hidden = !isShown(state);
  const best = answer?.predictions[0];
  const name = best && forPeople(best.label);
  const [title, share] = tile.querySelectorAll(".name, .share");
  if (state === "recognized") {
    write(title, name, languageOf(name));
    write(share, percent(best.probability));
  } else {
    write(title, HEADINGS[state]);
    write(share, best ? `${name} ${percent(best.probability)}` : (error?.message ?? ""));
  }
}

function isShown(state) {
  return !filter || state === filter;
}

/** Updates what stands above the tiles. */
function updateOverview() {
  const counts = { "": photos.length };
  for (const { state } of photos) counts[state] = (counts[state] ?? 0) + 1;
  if (!counts[filter]) chooseFilter("");
  for (const button of document.querySelectorAll(".filter")) {
    button.querySelector("b").textContent = counts[button.value] ?? 0;
    button.setAttribute("aria-pressed", String(button.value === filter));
    button.hidden = button.value === "unanswered" && !counts.unanswered;
  }
  const { done, total } = progress();
  byId("progress").hidden = done === total;
  byId("progress-text").textContent = fill(texts.progress, { done, total });
  Object.assign(document.querySelector("progress"), { max: total || 1, value: done });
  byId("retry-all").hidden = done < total || !counts.unanswered;
}

function chooseFilter(state) {
  filter = state;
  for (const photo of photos) if (photo.tile) updateTile(photo);
}

/** Returns what the overview says, for screen readers. */
function summary() {
  const filters = [...document.querySelectorAll(".filter:not([hidden])")].slice(1);
  return [byId("progress-text"), ...filters].map((element) => element.textContent.trim()).join(", ");
}

// The dialog

function view(photo) {
  if (viewed) discardCard(viewed);
  viewed = photo;
  byId("viewed").replaceChildren(makeCard(photo));
  updateViewer();
  const dialog = byId("viewer");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function updateViewer() {
  const shown = photos.filter((photo) => isShown(photo.state) || photo === viewed);
  const place = shown.indexOf(viewed);
  byId("position").textContent = fill(texts.position, { position: place + 1, total: shown.length });
  for (const [id, neighbour] of Object.entries({ previous: shown[place - 1], next: shown[place + 1] })) {
    const isFocused = document.activeElement === byId(id);
    byId(id).disabled = !neighbour;
    if (isFocused && !neighbour) byId("close").focus(); // a disabled button would lose the keys
    byId(id).onclick = () => view(neighbour);
  }
}

function closeViewer() {
  byId("viewer").close();
  if (!viewed) return;
  const { tile } = viewed;
  discardCard(viewed);
  viewed = null;
  tile.querySelector(".open").focus();
}

function listenToTiles() {
  const dialog = byId("viewer");
  byId("close").addEventListener("click", closeViewer);
  dialog.addEventListener("close", () => dialog.open || closeViewer()); // by the Escape key, or of an earlier opening
  dialog.addEventListener("keydown", (event) => {
    const button = { ArrowLeft: byId("previous"), ArrowRight: byId("next") }[event.key];
    if (button && !button.disabled && event.target.tagName !== "PRE") button.click();
  });
  for (const button of document.querySelectorAll(".filter")) {
    button.addEventListener("click", () => {
      chooseFilter(button.value);
      updateOverview();
    });
  }
  byId("cancel").addEventListener("click", cancel);
  byId("retry-all").addEventListener("click", () => begin(photos.filter(({ state }) => state === "unanswered")));
  byId("remove-all").addEventListener("click", () => remove([...photos]));
  byId("csv").addEventListener("click", () => download("answers.csv", "text/csv;charset=utf-8", toCsv(photos)));
  byId("json").addEventListener("click", () => download("answers.json", "application/json", toJson(photos)));
}
