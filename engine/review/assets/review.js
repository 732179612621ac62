// The page of a review: the gallery of a report, whose images are corrected.

import { element } from "../../report/assets/dom.js";
import { Filters } from "../../report/assets/filters.js";
import { percent, whole } from "../../report/assets/format.js";
import { Gallery } from "../../report/assets/gallery.js";
import { select } from "../../report/assets/query.js";
import { Rows, readData } from "../../report/assets/rows.js";
import { CAPTION_HEIGHT, TILE_WIDTH, tile } from "../../report/assets/tile.js";
import { Answers } from "./answers.js";
import { Editor } from "./editor.js";
import { Saver } from "./saving.js";

const head = readData("head");
const rows = new Rows(head, readData("rows"));
const answers = new Answers(rows, readData("answers"));
const reviewable = Array.from({ length: rows.length }, (_, i) => rows.error(i) === null).filter(Boolean).length;

const progressText = element("span", {});
const progressBar = element("progress", { max: Math.max(reviewable, 1), "aria-label": "Reviewed images" });
const saveState = element("span", { class: "save-state", role: "status" });

const saver = new Saver((state, sentence) => {
  for (const place of [saveState, editor.saveState]) {
    place.textContent = sentence;
    place.dataset.state = state;
  }
});
const editor = new Editor({
  rows,
  answers,
  photoAddress: (i) => `photo/${i}`,
  onchange: (i) => {
    saver.save(i, answers.get(i));
    gallery.refresh(i);
    filters.listClasses(rows.head.classes);
    showProgress();
  },
  onclose: (i) => {
    refilter(filters.query);
    gallery.reveal(i);
  },
});

let shown = [];
const gallery = new Gallery({
  makeTile: (i) => tile(rows, i, [`thumbnail/${i}`], (number) => editor.open(number, shown)),
  tileWidth: TILE_WIDTH,
  captionHeight: CAPTION_HEIGHT,
  emptyText: rows.length === 0 ? "The run has no images." : "No image matches. Loosen a filter, or show all.",
});
const filters = new Filters(rows, refilter, { reviewing: true });

function refilter(query) {
  shown = select(rows, query);
  filters.showNumber(shown.length);
  gallery.show(shown);
}

function showProgress() {
  const n = answers.nReviewed;
  progressText.textContent = `${whole(n)} of ${whole(reviewable)} reviewed (${percent(reviewable ? n / reviewable : 0)})`;
  progressBar.value = n;
}

function begin() {
  const first = shown.find((i) => rows.error(i) === null && !rows.reviewed(i)) ?? shown[0];
  if (first !== undefined) editor.open(first, shown);
}

document.getElementById("page").replaceChildren(
  element(
    "header",
    { class: "title review-title" },
    element(
      "div",
      {},
      element("p", { class: "kind" }, "Review of a run"),
      element("h1", {}, element("bdi", {}, head.name)),
    ),
    element("div", { class: "progress" }, progressText, progressBar, saveState),
    element("button", { type: "button", class: "primary", onclick: begin }, "Review next"),
  ),
  element("div", { class: "toolbar" }, filters.root),
  gallery.root,
  element("footer", {}, "Every change is saved at once, in corrections.jsonl beside the rows of the run."),
  editor.dialog,
);
filters.set({});
showProgress();
