// What is said about each image: by the run, and by the person who reviews it. With it, what to go back to.

import { inside } from "./shapes.js";

/**
 * The answers to all images. An answer is {count, pointers, reviewed, said}: the last is the class that a person says,
 * null where that of the run stands.
 */
export class Answers {
  /** `given` has what was said before: {number: [count, pointers]}, with the class said behind them, if any. */
  constructor(rows, given) {
    this.rows = rows;
    this.ofRun = new Map(); // what the run said, of images that were changed
    this.history = new Map(); // the answers before each change, the last one at the end
    this.said = new Map();
    this.nReviewed = 0;
    for (const [i, [count, pointers, said = null]] of Object.entries(given)) {
      this.put(Number(i), { count, pointers, reviewed: true, said });
    }
  }

  get(i) {
    return {
      count: this.rows.count(i),
      pointers: this.rows.pointers(i),
      reviewed: this.rows.reviewed(i),
      said: this.said.get(i) ?? null,
    };
  }

  /** The class that the run says, {classId, classScore}, as of `Rows`. */
  classOfRun(i) {
    return this.ofRun.get(i) ?? { classId: this.rows.classId(i), classScore: this.rows.classScore(i) };
  }

  /** Say something else about an image; `continuing` makes it one with the change before, for `undo`. */
  change(i, { count, pointers, said = this.get(i).said }, continuing = false) {
    if (!continuing) this.remember(i);
    const size = this.rows.size(i);
    this.put(i, { count, pointers: pointers.map((pointer) => inside(pointer, size)), reviewed: true, said });
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
    if (!this.ofRun.has(i)) this.ofRun.set(i, { ...this.get(i), ...this.classOfRun(i) });
    this.nReviewed += answer.reviewed - this.rows.reviewed(i);
    this.said.set(i, answer.said);
    const { classId, classScore } = this.ofRun.get(i);
    const ofClass =
      answer.said === null ? { classId, classScore } : { classId: this.rows.numberOfClass(answer.said), classScore: null };
    this.rows.answer(i, { ...answer, ...ofClass });
  }
}
