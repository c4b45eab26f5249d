"use strict";
// Scale images in the browser: uploads that are too large, and thumbnails.

const SHORT_SIDE = 1024; // pixels; a photo that is too large to send is scaled down to this, and the network needs 255
const LONGEST_SIDE = 8192; // pixels; every browser's canvas supports this
const THUMBNAIL = 320; // pixels; a thumbnail is a square

/** Returns the upload for a file: the file itself or, if it is too large, a scaled-down image. */
async function prepare(file) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new AnswerError(texts.unreadable_file, { isRefusal: true }); // a folder, or a deleted file
  });
  return file.size <= limit ? file : scaleDown(file);
}

async function scaleDown(file) {
  const scaled = await render(file, fitForUpload, 0.92).catch(() => null);
  if (!scaled || scaled.size > limit) throw tooLarge();
  return scaled;
}

function fitForUpload(width, height) {
  const scale = Math.min(1, SHORT_SIDE / Math.min(width, height), LONGEST_SIDE / Math.max(width, height));
  return [width * scale, height * scale];
}

/** Returns a square from the middle of a photo, about what the network sees of it. Rejects if there is no image. */
function makeThumbnail(file) {
  return render(file, (...sides) => Array(2).fill(Math.min(THUMBNAIL, ...sides)), 0.8);
}

/** Returns a file's image as a JPEG of fit(width, height) pixels, which it covers. */
async function render(file, fit, quality) {
  const bitmap = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  const sides = fit(bitmap.width, bitmap.height).map((side) => Math.max(1, Math.round(side)));
  [canvas.width, canvas.height] = sides;
  const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // the service also puts transparency over white
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
}
