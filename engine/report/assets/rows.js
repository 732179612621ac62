// The rows of a run. engine/report/compact.py says what stands where in the array of a row.

const PLACES = Array.from({ length: 16 }, (_, place) => place);
const [FOLDER, NAME, WIDTH, HEIGHT, COUNT, CLASS, SCORE, MARGIN, POINTERS, ERROR, REVIEWED] = PLACES;
const POINTER_CLASS = 6;
const [OTHER, OTHER_OPEN, OTHER_POINTERS, FOUND, FOUND_OPEN] = PLACES.slice(REVIEWED + 1);

/** Return the data that the page carries under a name; null where it carries none. */
export function readData(name) {
  const holder = document.getElementById(name);
  return holder === null ? null : JSON.parse(holder.textContent);
}

function countText(count, isOpen) {
  if (count === null) return "–";
  return isOpen ? `${count}+` : String(count);
}

/** What is known of each image, by its number in the run. */
export class Rows {
  /** `head` has the tables that the rows refer to. */
  constructor(head, rows) {
    this.head = head;
    this.rows = rows;
    // A page of 50,000 images searches them at every key: their paths in small letters are kept.
    this.searchable = null;
  }

  get length() {
    return this.rows.length;
  }

  path(i) {
    return this.head.folders[this.rows[i][FOLDER]][0] + this.rows[i][NAME];
  }

  name(i) {
    return this.rows[i][NAME];
  }

  /** Address of the photo relative to the page; null where it is no file. */
  address(i) {
    const folder = this.head.folders[this.rows[i][FOLDER]][1];
    if (folder === null) return null;
    // A byte that is not UTF-8 stands as \xNN in a row's name.
    return folder + encodeURIComponent(this.rows[i][NAME].toWellFormed()).replace(/%5Cx([89a-f][0-9a-f])/g, "%$1");
  }

  /** Width and height in pixels; 0 where they are not known. */
  size(i) {
    return [this.rows[i][WIDTH] ?? 0, this.rows[i][HEIGHT] ?? 0];
  }

  count(i) {
    return this.rows[i][COUNT] ?? null;
  }

  /** Whether the count stands for "at least so many": a counter's last label does, until a person says how many. */
  isOpen(i) {
    const { openCount } = this.head;
    return openCount !== null && this.count(i) >= openCount && !this.reviewed(i);
  }

  countText(i) {
    return countText(this.count(i), this.isOpen(i));
  }

  /** Number of the class in `head.classes`; -1 where there is none. */
  classId(i) {
    return this.rows[i][CLASS] ?? -1;
  }

  className(i) {
    return this.head.classes[this.classId(i)] ?? null;
  }

  classScore(i) {
    return this.rows[i][SCORE] ?? null;
  }

  /** By how much the best count score leads the second. */
  margin(i) {
    return this.rows[i][MARGIN] ?? null;
  }

  pointers(i) {
    return this.rows[i][POINTERS] ?? [];
  }

  /** Name of a pointer's own class, which it has where a run looks for several; null where it has none. */
  classOfPointer(pointer) {
    return this.head.classes[pointer[POINTER_CLASS]] ?? null;
  }

  /** Whether an image, or a pointer in it, is of a class. */
  isOfClass(i, classId) {
    return this.classId(i) === classId || this.pointers(i).some((pointer) => pointer[POINTER_CLASS] === classId);
  }

  /** The sentence that says why the image failed; null where it did not. */
  error(i) {
    return this.head.errors[this.rows[i][ERROR] ?? -1] ?? null;
  }

  reviewed(i) {
    return this.rows[i][REVIEWED] === 1;
  }

  /** The count of the run that this one is compared with; null where it has none. */
  otherCount(i) {
    return this.rows[i][OTHER] ?? null;
  }

  otherIsOpen(i) {
    return this.rows[i][OTHER_OPEN] === 1;
  }

  otherCountText(i) {
    return countText(this.otherCount(i), this.otherIsOpen(i));
  }

  otherPointers(i) {
    return this.rows[i][OTHER_POINTERS] ?? [];
  }

  /** What the run had counted of an image that was reviewed and is compared; null of others. */
  foundText(i) {
    const found = this.rows[i][FOUND] ?? null;
    return found === null ? null : countText(found, this.rows[i][FOUND_OPEN] === 1);
  }

  /** How far the counts of both runs are apart, before corrections; null where one of them has none. */
  difference(i) {
    const found = this.rows[i][FOUND] ?? null;
    const [count, isOpen] = found === null ? [this.count(i), this.isOpen(i)] : [found, this.rows[i][FOUND_OPEN] === 1];
    const other = this.otherCount(i);
    if (count === null || other === null) return null;
    if ((isOpen && other > count) || (this.otherIsOpen(i) && count > other)) return 0;
    return Math.abs(count - other);
  }

  /** Number of a class in `head.classes`, among which it is from now on. */
  numberOfClass(name) {
    const known = this.head.classes.indexOf(name);
    return known >= 0 ? known : this.head.classes.push(name) - 1;
  }

  /** Let a row say what a person found right, or what the run said. */
  answer(i, { count, pointers, reviewed, classId, classScore }) {
    const row = this.rows[i];
    while (row.length <= REVIEWED) row.push(undefined);
    row[COUNT] = count;
    row[CLASS] = classId;
    row[SCORE] = classScore;
    row[POINTERS] = pointers;
    row[REVIEWED] = reviewed ? 1 : 0;
  }

  /** The path in small letters, for searching. */
  searchText(i) {
    this.searchable ??= this.rows.map((_, each) => this.path(each).toLowerCase());
    return this.searchable[i];
  }

  /** Whether any row has a value, e.g. `rows.some("margin")`. */
  some(property) {
    for (let i = 0; i < this.length; i++) {
      const value = this[property](i);
      if (value !== null && value !== false && value !== -1) return true;
    }
    return false;
  }
}
