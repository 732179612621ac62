// What is said about each image: by the run, and by the person who reviews it. With it, what to go back to.

import { inside } from "./shapes.js";

/** The answers to all images. An answer is {count, pointers, reviewed}. */
export class Answers {
  /** `given` has what was said before: {number: [count, pointers]}. */
  constructor(rows, given) {
    this.rows = rows;
    this.ofRun = new Map(); // what the run said, of images that were changed
    this.history = new Map(); // the answers before each change, the last one at the end
    this.nReviewed = 0;
    for (const [i, [count, pointers]] of Object.entries(given)) {
      this.put(Number(i), { count, pointers, reviewed: true });
    }
  }

  get(i) {
    return { count: this.rows.count(i), pointers: this.rows.pointers(i), reviewed: this.rows.reviewed(i) };
  }

  /** Say something else about an image; `continuing` makes it one with the change before, for `undo`. */
  change(i, { count, pointers }, continuing = false) {
    if (!continuing) this.remember(i);
    const size = this.rows.size(i);
    this.put(i, { count, pointers: pointers.map((pointer) => inside(pointer, size)), reviewed: true });
  }

  /** Say again what the run said, as if nobody had looked. */
  withdraw(i) {
    if (!this.ofRun.has(i)) return;
    this.remember(i);
    this.put(i, this.ofRun.get(i));
  }

  canUndo(i) {
    return Boolean(this.history.get(i)?.length);
  }

  undo(i) {
    if (this.canUndo(i)) this.put(i, this.history.get(i).pop());
  }

  remember(i) {
    if (!this.history.has(i)) this.history.set(i, []);
    this.history.get(i).push(this.get(i));
  }

  put(i, answer) {
    if (!this.ofRun.has(i)) this.ofRun.set(i, this.get(i));
    this.nReviewed += answer.reviewed - this.rows.reviewed(i);
    this.rows.answer(i, answer.count, answer.pointers, answer.reviewed);
  }
}
