// Moving and resizing pointers inside a picture. They are not changed: each function returns another one.

import { ELLIPSE } from "../../report/assets/pointers.js";

// Sides of a new pointer where the image has none to go by, as a share of the picture's shorter side.
const NEW_SHARE = 0.18;
// A pointer is at least this large, in pixels of the picture, so that it can be seen and taken hold of.
const LEAST = 3;

/** Return the corners of the box around a pointer, [x0, y0, x1, y1]. */
export function boundsOf([kind, a, b, c, d]) {
  return kind === ELLIPSE ? [a - c, b - d, a + c, b + d] : [a, b, c, d];
}

/** Return a pointer that fills a box; `rest` is what follows its place, a score and perhaps a class. */
export function pointerIn(kind, [x0, y0, x1, y1], rest = [1]) {
  const place = kind === ELLIPSE ? [(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2] : [x0, y0, x1, y1];
  return [kind, ...place.map(toTenth), ...rest];
}

/** Return a pointer moved by (dx, dy), as far as the picture goes. */
export function moved(pointer, dx, dy, [width, height]) {
  const [kind, , , , , ...rest] = pointer;
  const [x0, y0, x1, y1] = boundsOf(pointer);
  // The centre of an ellipse stays inside; a box stays inside with all of it.
  const [marginX, marginY] = kind === ELLIPSE ? [(x1 - x0) / 2, (y1 - y0) / 2] : [0, 0];
  const stepX = clamp(dx, -x0 - marginX, width - x1 + marginX);
  const stepY = clamp(dy, -y0 - marginY, height - y1 + marginY);
  return pointerIn(kind, [x0 + stepX, y0 + stepY, x1 + stepX, y1 + stepY], rest);
}

/** Return a pointer whose lower right corner was dragged to (x, y). */
export function resized(pointer, x, y, [width, height]) {
  const [kind, , , , , ...rest] = pointer;
  const [x0, y0] = boundsOf(pointer);
  const corner = [clamp(x, x0 + LEAST, Math.max(width, x0 + LEAST)), clamp(y, y0 + LEAST, Math.max(height, y0 + LEAST))];
  return pointerIn(kind, [x0, y0, ...corner], rest);
}

/** Return a pointer spanned between two points, as far as the picture goes; null where all of it lies outside. */
export function spanned(kind, [ax, ay], [bx, by], [width, height]) {
  const [across, down] = [extent(ax, bx, width), extent(ay, by, height)];
  return across === null || down === null ? null : pointerIn(kind, [across[0], down[0], across[1], down[1]]);
}

/** Return what lies between two places on a side of the picture, at least as long as a pointer has to be. */
function extent(a, b, length) {
  const [from, to] = [Math.min(a, b), Math.max(a, b)];
  if (to <= 0 || from >= length) return null;
  const size = Math.max(Math.min(to, length) - Math.max(from, 0), Math.min(LEAST, length));
  const start = clamp(from, 0, length - size);
  return [start, start + size];
}

/** Return a new pointer at (x, y), as large as those that the image has. */
export function pointerAt(x, y, kind, pointers, [width, height]) {
  const usual = NEW_SHARE * Math.min(width, height);
  const boxes = pointers.map(boundsOf);
  const w = Math.max(median(boxes.map((box) => box[2] - box[0])) ?? usual, LEAST);
  const h = Math.max(median(boxes.map((box) => box[3] - box[1])) ?? usual, LEAST);
  const fresh = pointerIn(kind, [x - w / 2, y - h / 2, x + w / 2, y + h / 2]);
  return inside(fresh, [width, height]);
}

/** Return a pointer cut to what a picture can hold, as a run's own may lie on its edge by a fraction of a pixel. */
export function inside(pointer, [width, height]) {
  const [kind, a, b, c, d, score, ...ofClass] = pointer;
  const [x, y] = [clamp(a, 0, width), clamp(b, 0, height)];
  if (kind === ELLIPSE) return [kind, x, y, Math.max(c, 0), Math.max(d, 0), clamp(score, 0, 1), ...ofClass];
  return [kind, x, y, clamp(c, x, width), clamp(d, y, height), clamp(score, 0, 1), ...ofClass];
}

function median(numbers) {
  return numbers.length ? numbers.sort((a, b) => a - b)[numbers.length >> 1] : null;
}

function clamp(number, least, most) {
  return Math.min(Math.max(number, least), Math.max(most, least));
}

function toTenth(number) {
  return Math.round(number * 10) / 10;
}
