// One image of a gallery: its picture with its pointers, its count, and what it is called.

import { element } from "./dom.js";
import { percent } from "./format.js";
import { picture } from "./pictures.js";
import { pointerDrawing } from "./pointers.js";

export const TILE_WIDTH = 190;
/** Pixels below the picture. */
export const CAPTION_HEIGHT = 46;

/** Return the tile of image number i; `addresses` are those of its picture, `open` is called when it is chosen. */
export function tile(rows, i, addresses, open) {
  const [width, height] = rows.size(i);
  const failed = rows.error(i);
  const body =
    failed === null
      ? picture(addresses, pointerDrawing(width, height, rows.pointers(i)), "No picture here", {
          patient: true,
          size: [width, height],
        })
      : element("div", { class: "picture failed" }, element("p", { class: "missing" }, failed));
  return element(
    "button",
    { class: "tile", type: "button", title: rows.path(i), "data-number": i, onclick: () => open(i) },
    body,
    element("span", { class: "badge" }, failed === null ? rows.countText(i) : "failed"),
    rows.reviewed(i) ? element("span", { class: "badge reviewed", title: "reviewed" }, "✓") : null,
    element("span", { class: "name", dir: "auto" }, rows.name(i)),
    element("span", { class: "detail" }, ...detail(rows, i)),
  );
}

function detail(rows, i) {
  const parts = [];
  if (rows.head.compare) parts.push([`${rows.head.compare.mode}: ${rows.otherCountText(i)}`]);
  const name = rows.className(i);
  if (name !== null) {
    const score = rows.classScore(i);
    parts.push([element("bdi", {}, name), score === null ? "" : ` ${percent(score)}`]);
  } else if (rows.margin(i) !== null) parts.push([`margin ${rows.margin(i).toFixed(2)}`]);
  return parts.flatMap((part, k) => (k ? [" · ", ...part] : part));
}
