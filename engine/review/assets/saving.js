// Changes on their way to the server: one at a time, the newest of each image, tried again where that fails.

const RETRY_MS = 3000;
const REPEAT = "open the address that it prints, and repeat there what was not saved.";

/** Sends changes. `onstate(state, sentence)` is told "saving", "saved" or "failed". */
export class Saver {
  constructor(onstate) {
    this.onstate = onstate;
    this.waiting = new Map();
    this.refused = new Map(); // image -> why its last change is not saved, nor will be
    this.sending = false;
    window.addEventListener("beforeunload", (event) => this.isBusy() && event.preventDefault());
  }

  isBusy() {
    return this.sending || this.waiting.size > 0;
  }

  /** Save an answer, or that there is none any more where it is not reviewed. */
  save(index, { count, pointers, reviewed, said }) {
    this.waiting.delete(index); // so that the last changed is the last sent
    this.waiting.set(index, reviewed ? { index, count, pointers, class: said } : { index, withdraw: true });
    this.send();
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    this.onstate("saving", "Saving …");
    while (this.waiting.size > 0) {
      const [index, change] = this.waiting.entries().next().value;
      this.waiting.delete(index);
      this.refused.delete(index);
      const failure = await post(change);
      if (failure === null) continue;
      if (!failure.again) {
        this.refused.set(index, failure.sentence);
        continue;
      }
      if (!this.waiting.has(index)) this.waiting.set(index, change);
      this.sending = false;
      this.onstate("failed", `Not saved: ${failure.sentence}`);
      setTimeout(() => this.waiting.size > 0 && this.send(), RETRY_MS);
      return;
    }
    this.sending = false;
    const [sentence] = this.refused.values();
    if (sentence === undefined) this.onstate("saved", "All changes are saved");
    else this.onstate("failed", `Not saved: ${sentence}`);
  }
}

async function post(change) {
  try {
    const response = await fetch("change", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(change),
    });
    if (response.ok) return null;
    // Each start has a token of its own, which this page cannot know.
    if (response.status === 403) return { sentence: `pc-engine review was restarted: ${REPEAT}`, again: false };
    const { error } = await response.json();
    return { sentence: error, again: response.status >= 500 };
  } catch {
    return { sentence: `pc-engine review does not answer. If it has ended, start it again, ${REPEAT}`, again: true };
  }
}
