// One image, large, with all that its row says.

import { element } from "./dom.js";
import { percent, whole } from "./format.js";
import { picture } from "./pictures.js";
import { pointerDrawing } from "./pointers.js";

/** A dialog that shows one image and goes on to its neighbours in the gallery. */
export class Viewer {
  /** `addressesOf(i)` gives the addresses of a picture, the best first. */
  constructor(rows, addressesOf, onclose) {
    this.rows = rows;
    this.addressesOf = addressesOf;
    this.stage = element("div", { class: "stage" });
    this.facts = element("dl", { class: "facts" });
    this.title = element("h2", { dir: "auto" });
    this.position = element("span", { class: "position" });
    this.dialog = element(
      "dialog",
      { class: "viewer", "aria-label": "One image", onkeydown: (event) => this.key(event), onclose: () => onclose(this.number) },
      element(
        "header",
        {},
        this.title,
        this.position,
        element("button", { type: "button", "aria-label": "Previous", title: "Previous (left arrow)", onclick: () => this.step(-1) }, "‹"),
        element("button", { type: "button", "aria-label": "Next", title: "Next (right arrow)", onclick: () => this.step(1) }, "›"),
        element("button", { type: "button", "aria-label": "Close", title: "Close (Escape)", onclick: () => this.dialog.close() }, "✕"),
      ),
      this.stage,
      this.facts,
    );
  }

  /** Show image `number`, one of `numbers`. */
  open(number, numbers) {
    this.numbers = numbers;
    this.show(number);
    if (!this.dialog.open) this.dialog.showModal();
  }

  step(by) {
    const place = this.numbers.indexOf(this.number) + by;
    if (place >= 0 && place < this.numbers.length) this.show(this.numbers[place]);
  }

  key(event) {
    if (event.key === "ArrowLeft" || event.key === "p") this.step(-1);
    else if (event.key === "ArrowRight" || event.key === "n") this.step(1);
  }

  show(number) {
    const { rows } = this;
    this.number = number;
    const [width, height] = rows.size(number);
    const drawing = pointerDrawing(width, height, rows.pointers(number));
    const others = pointerDrawing(width, height, rows.otherPointers(number), { class: "others" });
    const body =
      rows.error(number) === null
        ? picture(this.addressesOf(number), drawing, missingSentence(rows, number), { size: [width, height] })
        : element("div", { class: "picture failed" }, element("p", { class: "missing" }, rows.error(number)));
    if (rows.otherPointers(number).length > 0) body.append(others);
    this.stage.replaceChildren(body);
    this.title.textContent = rows.name(number);
    this.position.textContent = `${whole(this.numbers.indexOf(number) + 1)} of ${whole(this.numbers.length)}`;
    this.facts.replaceChildren(...facts(rows, number).flatMap(([name, value]) => [
      element("dt", {}, name),
      element("dd", {}, element("bdi", {}, value)),
    ]));
  }
}

function missingSentence(rows, i) {
  if (rows.address(i) === null) return "The photo is not a file, and the page has no small picture of it: make the page with --thumbnails.";
  return "The photo cannot be shown: it is not there, or browsers cannot show its format. If the photos have moved, make the report with --photos DIR. A report with --thumbnails has a small picture of it, and a review shows it large.";
}

function facts(rows, i) {
  const [width, height] = rows.size(i);
  const { compare } = rows.head;
  const found = [];
  if (rows.error(i) === null) found.push(["Count", rows.countText(i) + (rows.reviewed(i) ? " (reviewed)" : "")]);
  if (rows.foundText(i) !== null) found.push(["Count before", rows.foundText(i)]);
  if (compare && rows.otherCount(i) !== null) {
    found.push([`Count, ${compare.mode}`, `${rows.otherCountText(i)} (dashed)`]);
  }
  if (rows.className(i) !== null) found.push(["Class", rows.className(i)]);
  if (rows.classScore(i) !== null) found.push(["Class score", percent(rows.classScore(i))]);
  if (rows.margin(i) !== null) found.push(["Margin of the count", rows.margin(i).toFixed(3)]);
  if (width > 0) found.push(["Size", `${width} × ${height}`]);
  found.push(["Path", rows.path(i)]);
  return found;
}
