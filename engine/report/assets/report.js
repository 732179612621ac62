// The page of a report.

import { element } from "./dom.js";
import { Filters } from "./filters.js";
import { Gallery } from "./gallery.js";
import { Thumbnails } from "./pictures.js";
import { select } from "./query.js";
import { Rows, readData } from "./rows.js";
import { summary } from "./summary.js";
import { CAPTION_HEIGHT, TILE_WIDTH, tile } from "./tile.js";
import { Viewer } from "./viewer.js";

const head = readData("head");
const rows = new Rows(head, readData("rows"));
const thumbnails = new Thumbnails(head.thumbnailsPerPart);

let shown = [];
const viewer = new Viewer(rows, (i) => [rows.address(i), thumbnails.address(i)], (i) => gallery.reveal(i));
const gallery = new Gallery({
  makeTile: (i) => tile(rows, i, [thumbnails.address(i), rows.address(i)], (number) => viewer.open(number, shown)),
  tileWidth: TILE_WIDTH,
  captionHeight: CAPTION_HEIGHT,
  emptyText: rows.length === 0 ? "The run has no images." : "No image matches. Loosen a filter, or show all.",
});
const filters = new Filters(rows, (query) => {
  shown = select(rows, query);
  filters.showNumber(shown.length);
  gallery.show(shown);
});

const bar = element("div", { class: "toolbar" }, filters.root);

function filterAndGoThere(changes) {
  filters.set({ ...filters.initial, ...changes });
  bar.scrollIntoView({ block: "start" });
}

document.getElementById("page").replaceChildren(
  ...summary(head, filterAndGoThere),
  element("h2", { class: "gallery-heading" }, "Images"),
  bar,
  gallery.root,
  element("footer", {}, footerText()),
  viewer.dialog,
);
filters.set({});

function footerText() {
  const small = head.thumbnailsPerPart === null
    ? ""
    : " Photos that browsers cannot show correctly, such as HEIC and TIFF, are shown by small pictures inside it.";
  const pictures = head.thumbnailsOfAll
    ? "It contains a small picture of every photo."
    : `It shows the photos from where they are: moved without them, it shows none.${small} To send it, make it with --thumbnails.`;
  return `Made by pc-engine. The page loads nothing from other servers. ${pictures}`;
}
