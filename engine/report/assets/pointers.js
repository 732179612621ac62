// Pointers drawn in SVG over a picture. A pointer is [kind, a, b, c, d, score]: kind 0 is an ellipse with x, y, rx, ry,
// kind 1 a box with x0, y0, x1, y1, in pixels of the picture. What follows the score is the class of its own, if any.

import { svgElement } from "./dom.js";

export const ELLIPSE = 0;

// Colours that stay apart for most kinds of colour vision (Okabe & Ito, 2008).
const COLOURS = ["#e69f00", "#56b4e9", "#00b386", "#f0e442", "#3d8bfd", "#ff7a33", "#e58fc0"];

/** Return the drawing of an image's pointers, to be laid over its picture. */
export function pointerDrawing(width, height, pointers, attributes = {}) {
  return svgElement(
    "svg",
    { viewBox: `0 0 ${width || 1} ${height || 1}`, "aria-hidden": "true", ...attributes },
    ...pointers.map((pointer, k) => pointerGroup(pointer, k)),
  );
}

/** Return the outline of one pointer: its colour on a dark line, which keeps it visible on any ground. */
export function pointerGroup(pointer, k, attributes = {}) {
  return svgElement(
    "g",
    { class: "pointer", "data-pointer": k, ...attributes },
    outline(pointer, { class: "ground" }),
    outline(pointer, { class: "line", stroke: COLOURS[k % COLOURS.length] }),
  );
}

/** Return the shape of a pointer. */
export function outline([kind, a, b, c, d], attributes) {
  if (kind === ELLIPSE) {
    return svgElement("ellipse", { cx: a, cy: b, rx: Math.max(c, 0), ry: Math.max(d, 0), ...attributes });
  }
  return svgElement("rect", { x: a, y: b, width: Math.max(c - a, 0), height: Math.max(d - b, 0), ...attributes });
}
