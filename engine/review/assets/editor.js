// One image, large, whose count and pointers are corrected.

import { element } from "../../report/assets/dom.js";
import { percent, plural, whole } from "../../report/assets/format.js";
import { picture } from "../../report/assets/pictures.js";
import { Drawing } from "./drawing.js";
import { boundsOf, moved, pointerAt } from "./shapes.js";

// Steps of the arrow keys, as a share of the picture's longer side; with Shift they are larger.
const [STEP, LARGE_STEP] = [0.005, 0.03];
// Steps of the arrow keys that follow one another this soon are undone together.
const NUDGES_MS = 800;

const KEYS = [
  ["0 – 9", "set the count"],
  ["C", "type a larger count"],
  ["L", "type the class"],
  ["+  −", "one more, one less"],
  ["Enter", "accept and go on"],
  ["Click, drag", "add a pointer"],
  ["A", "add one in the middle"],
  ["Tab", "select the next pointer"],
  ["Arrows", "move the selected pointer, else go on"],
  ["Delete", "delete the selected pointer"],
  ["U, Ctrl Z", "undo"],
  ["N  P", "next, previous"],
  ["Esc", "deselect; back to the gallery"],
];

/** A dialog that corrects images, one after the other. */
export class Editor {
  /** `onchange(i)` is called when an answer has changed, `onclose(i)` when the dialog was left at image i. */
  constructor({ rows, answers, photoAddress, onchange, onclose }) {
    Object.assign(this, { rows, answers, photoAddress, onchange });
    this.selected = null;
    this.drawing = new Drawing({
      onselect: (k) => this.select(k),
      onchange: (pointers, k) => this.changePointers(pointers, k),
    });
    this.build();
    this.dialog.addEventListener("close", () => onclose(this.number));
    this.dialog.addEventListener("cancel", (event) => event.preventDefault()); // Escape lets go first
  }

  build() {
    const button = (text, act, attributes = {}) =>
      element("button", { type: "button", onclick: () => act(), ...attributes }, text);
    this.title = element("h2", { dir: "auto" });
    this.position = element("span", { class: "position" });
    this.saveState = element("span", { class: "save-state", role: "status" });
    this.stage = element("div", { class: "stage" });
    this.count = element("input", {
      type: "number",
      min: 0,
      max: 1000000,
      step: 1,
      inputmode: "numeric",
      class: "count",
      "aria-label": "Count",
      onchange: () => this.typeCount(),
    });
    this.className = element("input", {
      type: "text",
      list: "classes",
      maxlength: 200,
      autocomplete: "off",
      dir: "auto",
      class: "class-name",
      "aria-label": "Class",
      title: "Leave empty for the run's",
      onchange: () => this.typeClass(),
    });
    this.classes = element("datalist", { id: "classes" });
    // What can be typed: where, what stands there, and what says it.
    this.fields = [
      { input: this.count, shown: () => String(this.answer().count ?? ""), say: () => this.typeCount() },
      { input: this.className, shown: () => this.rows.className(this.number) ?? "", say: () => this.typeClass() },
    ];
    this.state = element("p", { class: "state" });
    this.remark = element("p", { class: "note" });
    this.list = element("ol", { class: "pointer-list" });
    this.accept = button("Accept", () => this.acceptAndGoOn(), { class: "primary", title: "Enter" });
    this.undoButton = button("Undo", () => this.undo(), { title: "U or Ctrl Z" });
    this.deleteButton = button("Delete", () => this.deleteSelected(), { title: "Delete" });
    this.withdrawButton = button("Not reviewed", () => this.withdraw(), { title: "Go back to what the run said" });
    this.dialog = element(
      "dialog",
      { class: "viewer editor", tabindex: -1, "aria-label": "Review one image", onkeydown: (event) => this.key(event) },
      element(
        "header",
        {},
        this.title,
        this.saveState,
        this.position,
        button("‹", () => this.step(-1), { "aria-label": "Previous", title: "Previous (P)" }),
        button("›", () => this.step(1), { "aria-label": "Next", title: "Next (N)" }),
        button("✕", () => this.dialog.close(), { "aria-label": "Back to the gallery", title: "Back to the gallery (Esc)" }),
      ),
      this.stage,
      element(
        "aside",
        { class: "facts" },
        this.state,
        element(
          "div",
          { class: "counter" },
          button("−", () => this.addToCount(-1), { "aria-label": "One less" }),
          this.count,
          button("+", () => this.addToCount(1), { "aria-label": "One more" }),
        ),
        element("label", { class: "class-field" }, element("span", {}, "Class"), this.className, this.classes),
        this.remark,
        element("div", { class: "actions" }, this.accept, this.undoButton, this.withdrawButton),
        element(
          "div",
          { class: "heading" },
          element("h3", {}, "Pointers"),
          button("Add", () => this.addInMiddle(), { title: "A" }),
          this.deleteButton,
        ),
        this.list,
        element("h3", { class: "keys-heading" }, "Keys"),
        element("dl", { class: "keys" }, ...KEYS.flatMap(([key, what]) => [element("dt", {}, key), element("dd", {}, what)])),
      ),
    );
  }

  /** Show image `number`, one of `numbers`, through which the keys go. */
  open(number, numbers) {
    this.numbers = numbers;
    this.listClasses();
    this.go(number);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.focus();
  }

  listClasses() {
    this.classes.replaceChildren(...this.rows.head.classes.map((value) => element("option", { value })));
  }

  go(number) {
    this.number = number;
    this.selected = null;
    this.lastNudge = null;
    const failed = this.rows.error(number);
    this.title.textContent = this.rows.name(number);
    this.title.title = this.rows.path(number);
    this.position.textContent = `${whole(this.numbers.indexOf(number) + 1)} of ${whole(this.numbers.length)}`;
    this.dialog.classList.toggle("uneditable", failed !== null);
    this.stage.replaceChildren(
      failed === null
        ? picture([this.photoAddress(number)], this.drawing.root, "The photo cannot be shown: it is not there, or cannot be read. If the photos have moved, start the review with --photos DIR.")
        : element("div", { class: "picture failed" }, element("p", { class: "missing" }, failed)),
    );
    this.update();
    const next = this.neighbour(1);
    if (next !== undefined && this.rows.error(next) === null) new Image().src = this.photoAddress(next);
  }

  neighbour(by) {
    return this.numbers[this.numbers.indexOf(this.number) + by];
  }

  step(by) {
    const next = this.neighbour(by);
    if (next !== undefined) this.go(next);
  }

  isEditable() {
    return this.rows.error(this.number) === null;
  }

  answer() {
    return this.answers.get(this.number);
  }

  update() {
    const { rows, number } = this;
    const { count, pointers, reviewed } = this.answer();
    const editable = this.isEditable();
    this.drawing.show(rows.size(number), pointers, this.selected, this.kindOf(pointers));
    for (const { input, shown } of this.fields) input.value = shown();
    this.state.textContent = !editable ? "This image failed in the run." : reviewed ? "✓ Reviewed" : "Not reviewed yet";
    this.state.classList.toggle("reviewed", reviewed);
    this.remark.replaceChildren(...(editable ? this.remarkOn(count, pointers) : []));
    this.accept.textContent = reviewed ? "Next" : "Accept";
    this.undoButton.disabled = !this.answers.canUndo(number);
    this.withdrawButton.disabled = !reviewed;
    this.deleteButton.disabled = this.selected === null;
    this.list.replaceChildren(...pointers.map((pointer, k) => this.listEntry(pointer, k)));
    this.keepFocus();
  }

  /** A button that is disabled or gone has the focus no more, and without it the keys would do nothing. */
  keepFocus() {
    const focused = document.activeElement;
    if (this.dialog.open && (!this.dialog.contains(focused) || focused.disabled)) this.dialog.focus();
  }

  remarkOn(count, pointers) {
    const parts = [];
    if (this.rows.isOpen(this.number)) parts.push(`The counter says ${count} or more.`);
    if (count !== pointers.length) parts.push(`${plural(pointers.length, "pointer")}, which is fine if not all can be pointed at.`);
    const { classId, classScore } = this.answers.classOfRun(this.number);
    const name = this.rows.head.classes[classId];
    const said = [parts.map((part) => `${part} `).join("")];
    if (name === undefined) return said;
    return [...said, "The run sees: ", element("bdi", {}, name), ` (${percent(classScore ?? 0)}).`];
  }

  listEntry(pointer, k) {
    const [x0, y0, x1, y1] = boundsOf(pointer).map(Math.round);
    const ofClass = this.rows.classOfPointer(pointer);
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: k === this.selected ? "taken" : "", onclick: () => this.select(k) },
        `${(x0 + x1) >> 1}, ${(y0 + y1) >> 1}`,
        element("span", { class: "note" }, ` ${x1 - x0} × ${y1 - y0}`),
        ofClass === null ? null : element("bdi", { class: "note" }, ` ${ofClass}`),
      ),
    );
  }

  kindOf(pointers) {
    return pointers.length ? pointers[0][0] : this.rows.head.pointsWith === "ellipse" ? 0 : 1;
  }

  /** Say what is being typed: a press on the picture leaves its field without a word. */
  sayTyped() {
    const field = this.fieldOf(document.activeElement);
    if (field === undefined) return;
    if (field.input.value !== field.shown()) field.say();
    // The field would say it once more when it is left, by then of another image.
    this.dialog.focus();
  }

  fieldOf(target) {
    return this.fields.find(({ input }) => input === target);
  }

  select(k) {
    this.sayTyped();
    this.selected = k;
    this.update();
    this.dialog.focus();
  }

  /** Let the image have other pointers. The count goes with their number for as long as it is that. */
  changePointers(pointers, selected, continuing = false) {
    this.sayTyped();
    const before = this.answer();
    const [n, nBefore] = [pointers.length, before.pointers.length];
    const count = before.count === nBefore ? n : n > nBefore ? Math.max(before.count, n) : before.count;
    this.selected = selected;
    this.change({ count, pointers }, continuing);
  }

  setCount(count) {
    if (Number.isInteger(count) && count >= 0 && count <= 1000000) this.change({ ...this.answer(), count });
    else this.update();
  }

  addToCount(by) {
    if (this.isEditable()) this.setCount(Math.max(this.answer().count + by, 0));
  }

  typeCount() {
    const { count, reviewed } = this.answer();
    // After Enter, leaving the field says the same once more.
    if (reviewed && this.count.value === String(count)) return;
    if (this.isEditable()) this.setCount(this.count.value === "" ? NaN : Number(this.count.value));
  }

  /** Say of which class the image is; nothing, or what the run says, lets that stand. */
  typeClass() {
    const name = oneSpace(this.className.value);
    const { classId } = this.answers.classOfRun(this.number);
    const said = name === "" || name === oneSpace(this.rows.head.classes[classId] ?? "") ? null : name;
    if (!this.isEditable() || said === this.answer().said) return this.update();
    this.change({ ...this.answer(), said });
    this.listClasses();
  }

  /** Say something else; `continuing` makes it one with the change before, for undo. */
  change(answer, continuing = false) {
    if (!this.isEditable()) return;
    this.lastNudge = null;
    this.answers.change(this.number, answer, continuing);
    this.changed();
  }

  changed() {
    this.update();
    this.onchange(this.number);
  }

  acceptAndGoOn() {
    if (this.isEditable() && !this.answer().reviewed) this.change(this.answer());
    this.step(1);
  }

  undo() {
    if (!this.answers.canUndo(this.number)) return;
    this.answers.undo(this.number);
    this.selected = null;
    this.changed();
  }

  withdraw() {
    if (!this.answer().reviewed) return;
    this.answers.withdraw(this.number);
    this.selected = null;
    this.changed();
  }

  deleteSelected() {
    if (this.selected === null || !this.isEditable()) return;
    this.changePointers(this.answer().pointers.filter((_, k) => k !== this.selected), null);
  }

  addInMiddle() {
    if (!this.isEditable()) return;
    const { pointers } = this.answer();
    const size = this.rows.size(this.number);
    const fresh = pointerAt(size[0] / 2, size[1] / 2, this.kindOf(pointers), pointers, size);
    this.changePointers([...pointers, fresh], pointers.length);
  }

  moveSelected(dx, dy, large, at) {
    const { pointers } = this.answer();
    const size = this.rows.size(this.number);
    const step = Math.max(Math.max(...size) * (large ? LARGE_STEP : STEP), 1);
    const last = this.lastNudge;
    const continuing = last !== null && last.k === this.selected && at - last.at < NUDGES_MS;
    this.changePointers(
      pointers.map((pointer, k) => (k === this.selected ? moved(pointer, dx * step, dy * step, size) : pointer)),
      this.selected,
      continuing,
    );
    this.lastNudge = { k: this.selected, at };
  }

  key(event) {
    if (event.isComposing) return; // its keys are those of an input method
    if (this.fieldOf(event.target) && event.key !== "Escape" && event.key !== "Enter") return;
    const act = this.actionOf(event);
    if (act === null) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  actionOf({ key, ctrlKey, metaKey, altKey, shiftKey, target, timeStamp }) {
    if (ctrlKey || metaKey) return key.toLowerCase() === "z" ? () => this.undo() : null;
    if (altKey) return null;
    const onButton = target instanceof HTMLButtonElement && target.closest(".facts, header");
    if (onButton && (key === "Enter" || key === " " || key === "Tab")) return null;
    if (/^[0-9]$/.test(key)) return () => this.isEditable() && this.setCount(Number(key));
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (key in arrows) return () => this.arrow(...arrows[key], shiftKey, timeStamp);
    const actions = {
      "+": () => this.addToCount(1),
      "-": () => this.addToCount(-1),
      Enter: () => this.enter(),
      Tab: () => this.takeNext(shiftKey ? -1 : 1),
      Delete: () => this.deleteSelected(),
      Backspace: () => this.deleteSelected(),
      Escape: () => this.escape(),
      a: () => this.addInMiddle(),
      c: () => this.count.select(),
      l: () => this.className.select(),
      u: () => this.undo(),
      n: () => this.step(1),
      p: () => this.step(-1),
    };
    return actions[key.length === 1 ? key.toLowerCase() : key] ?? null;
  }

  arrow(dx, dy, large, at) {
    if (this.selected !== null) this.moveSelected(dx, dy, large, at);
    else this.step(dx || dy);
  }

  takeNext(by) {
    const n = this.answer().pointers.length;
    if (n === 0) return;
    this.select(this.selected === null ? (by > 0 ? 0 : n - 1) : (this.selected + by + n) % n);
  }

  enter() {
    const field = this.fieldOf(document.activeElement);
    if (field) {
      field.say();
      this.dialog.focus();
    } else {
      this.acceptAndGoOn();
    }
  }

  escape() {
    const field = this.fieldOf(document.activeElement);
    if (field) {
      field.input.value = field.shown(); // before the focus leaves it, which would say it
      this.dialog.focus();
    } else if (this.selected !== null) this.select(null);
    else this.dialog.close();
  }
}

function oneSpace(text) {
  return text.trim().replace(/\s+/g, " ");
}
