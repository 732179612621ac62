// A grid of tiles of which only those in view are in the document, so that it may have any number of them.

import { element } from "./dom.js";

const GAP = 12;
// Rows of tiles kept above and below what is in view.
const ROWS_AHEAD = 2;
// Browsers cannot make an element much higher than this; further rows are reached by filtering.
const HIGHEST = 15_000_000;

/** The grid. It scrolls with the page. */
export class Gallery {
  /**
   * `makeTile(i)` returns the tile of image number i; `captionHeight` is what it has below its picture, of 4 : 3.
   * `emptyText` stands in the place of tiles where there are none.
   */
  constructor({ makeTile, tileWidth, captionHeight, emptyText }) {
    this.makeTile = makeTile;
    this.leastWidth = tileWidth;
    this.captionHeight = captionHeight;
    this.numbers = [];
    this.tiles = new Map(); // position in the grid -> its tile
    this.grid = element("div", { class: "grid" });
    this.empty = element("p", { class: "empty", hidden: true }, emptyText);
    this.root = element("div", { class: "gallery" }, this.grid, this.empty);
    this.waiting = false;
    new ResizeObserver(() => this.layOut()).observe(this.root);
    window.addEventListener("scroll", () => this.renderSoon(), { passive: true });
    window.addEventListener("resize", () => this.renderSoon());
  }

  /** Show these images, in this order. */
  show(numbers) {
    this.numbers = numbers;
    this.clear();
    this.empty.hidden = numbers.length > 0;
    this.layOut();
  }

  /** Make the tile of an image anew, because what is known of it has changed. */
  refresh(number) {
    for (const [position, tile] of this.tiles) {
      if (this.numbers[position] !== number) continue;
      const fresh = this.place(this.makeTile(number), position);
      tile.replaceWith(fresh);
      this.tiles.set(position, fresh);
    }
  }

  /** Bring an image into view and give its tile the focus. */
  reveal(number) {
    const position = this.numbers.indexOf(number);
    if (position < 0) return;
    const top = this.grid.getBoundingClientRect().top + window.scrollY;
    const y = top + Math.floor(position / this.columns) * this.rowHeight;
    if (y < window.scrollY || y + this.rowHeight > window.scrollY + window.innerHeight) {
      window.scrollTo({ top: y - (window.innerHeight - this.rowHeight) / 2 });
    }
    this.render();
    this.tiles.get(position)?.focus({ preventScroll: true });
  }

  layOut() {
    const width = this.root.clientWidth;
    if (width === 0) return;
    const columns = Math.max(Math.floor((width + GAP) / (this.leastWidth + GAP)), 2);
    this.width = (width - GAP * (columns - 1)) / columns;
    this.rowHeight = Math.round(this.width * 0.75) + this.captionHeight + GAP;
    if (columns !== this.columns || this.rowHeight !== this.laidOutHeight) this.clear();
    this.columns = columns;
    this.laidOutHeight = this.rowHeight;
    const rows = Math.ceil(this.numbers.length / columns);
    this.grid.style.height = `${Math.min(rows * this.rowHeight, HIGHEST)}px`;
    this.render();
  }

  renderSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.render();
    });
  }

  render() {
    if (!this.columns) return;
    const above = -this.grid.getBoundingClientRect().top;
    const firstRow = Math.max(Math.floor(above / this.rowHeight) - ROWS_AHEAD, 0);
    const lastRow = Math.max(Math.ceil((above + window.innerHeight) / this.rowHeight) + ROWS_AHEAD, 0);
    const first = firstRow * this.columns;
    const last = Math.min(lastRow * this.columns, this.numbers.length);
    for (const [position, tile] of this.tiles) {
      if (position >= first && position < last) continue;
      tile.remove();
      this.tiles.delete(position);
    }
    let previous = null;
    for (let position = first; position < last; position++) {
      let tile = this.tiles.get(position);
      if (tile === undefined) {
        tile = this.place(this.makeTile(this.numbers[position]), position);
        this.tiles.set(position, tile);
        // In their order, which is that of the Tab key.
        if (previous === null) this.grid.prepend(tile);
        else previous.after(tile);
      }
      previous = tile;
    }
  }

  place(tile, position) {
    const [row, column] = [Math.floor(position / this.columns), position % this.columns];
    tile.style.width = `${this.width}px`;
    tile.style.height = `${this.rowHeight - GAP}px`;
    tile.style.transform = `translate(${column * (this.width + GAP)}px, ${row * this.rowHeight}px)`;
    return tile;
  }

  clear() {
    this.tiles.clear();
    this.grid.replaceChildren();
  }
}
