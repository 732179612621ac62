// The picture of the editor, whose pointers are taken hold of with the mouse or a finger.

import { svgElement } from "../../report/assets/dom.js";
import { outline, pointerGroup } from "../../report/assets/pointers.js";
import { boundsOf, moved, pointerAt, resized, spanned } from "./shapes.js";

// Below this distance on the screen a press is a click, and no drag.
const CLICK_PX = 4;
const HANDLE_PX = 7;

/**
 * The pointers of one image, over its picture. `onselect(k)` is told which one is taken, and `onchange(pointers, k)` what
 * has become of them, with pointer number k taken.
 */
export class Drawing {
  constructor({ onselect, onchange }) {
    this.onselect = onselect;
    this.onchange = onchange;
    this.root = svgElement("svg", {
      class: "drawing",
      onpointerdown: (event) => this.press(event),
      onpointermove: (event) => this.drag(event),
      onpointerup: (event) => this.release(event),
      onpointercancel: () => this.cancel(),
    });
    this.pressed = null;
    new ResizeObserver(() => this.draw()).observe(this.root);
  }

  /** Show pointers over a picture of `size`, the one numbered `selected` as taken; `kind` is that of new ones. */
  show(size, pointers, selected, kind) {
    Object.assign(this, { size, pointers, selected, kind });
    this.root.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    this.draw();
  }

  draw(pointers = this.pointers) {
    if (pointers === undefined) return;
    this.root.replaceChildren(...pointers.map((pointer, k) => this.group(pointer, k)));
    // What is taken lies above the others, so that its handle can be reached.
    if (this.selected !== null && this.selected < pointers.length) this.root.append(this.root.children[this.selected]);
  }

  group(pointer, k) {
    const group = pointerGroup(pointer, k);
    group.prepend(outline(pointer, { class: "body" }));
    if (k === this.selected) {
      group.classList.add("selected");
      const [x0, y0, x1, y1] = boundsOf(pointer);
      group.append(svgElement("rect", { class: "bounds", x: x0, y: y0, width: x1 - x0, height: y1 - y0 }));
      // An ellipse may reach beyond the picture; its handle would be out of sight there.
      const [cx, cy] = [Math.min(x1, this.size[0]), Math.min(y1, this.size[1])];
      group.append(svgElement("circle", { class: "handle", cx, cy, r: HANDLE_PX / this.scale() }));
    }
    return group;
  }

  press(event) {
    if (event.button !== 0) return;
    const group = event.target.closest?.(".pointer");
    const k = group === null ? null : Number(group.dataset.pointer);
    const action = k === null ? "span" : event.target.classList.contains("handle") ? "resize" : "move";
    this.pressed = { action, k, from: this.place(event), at: [event.clientX, event.clientY], result: null };
    this.root.setPointerCapture(event.pointerId);
    if (k !== null && k !== this.selected) this.onselect(k);
    event.preventDefault();
  }

  drag(event) {
    const { pressed } = this;
    if (pressed === null) return;
    const far = Math.hypot(event.clientX - pressed.at[0], event.clientY - pressed.at[1]) >= CLICK_PX;
    if (pressed.result === null && !far) return;
    const [x, y] = this.place(event);
    const [fromX, fromY] = pressed.from;
    let result = [...this.pointers];
    if (pressed.action === "span") {
      const fresh = spanned(this.kind, pressed.from, [x, y], this.size);
      if (fresh === null) result = null;
      else result.push(fresh);
    } else if (pressed.action === "resize") result[pressed.k] = resized(result[pressed.k], x, y, this.size);
    else result[pressed.k] = moved(result[pressed.k], x - fromX, y - fromY, this.size);
    pressed.result = result;
    this.draw(result ?? this.pointers);
  }

  release(event) {
    const { pressed } = this;
    this.pressed = null;
    if (pressed === null) return;
    if (pressed.result !== null) {
      this.onchange(pressed.result, pressed.k ?? pressed.result.length - 1);
    } else if (pressed.action === "span") {
      const [x, y] = this.place(event);
      if (x < 0 || y < 0 || x > this.size[0] || y > this.size[1]) return this.onselect(null);
      this.onchange([...this.pointers, pointerAt(x, y, this.kind, this.pointers, this.size)], this.pointers.length);
    }
  }

  cancel() {
    this.pressed = null;
    this.draw();
  }

  /** Pixels of the screen for a pixel of the picture. */
  scale() {
    return this.root.getScreenCTM()?.a || 1;
  }

  /** Return where in the picture an event is. */
  place(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.root.getScreenCTM().inverse());
    return [point.x, point.y];
  }
}
