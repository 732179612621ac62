// Which images a gallery shows, and in which order.

/** What a gallery shows at first: all images, in the order of the run. */
export const EVERYTHING = Object.freeze({
  text: "",
  countFrom: null,
  countTo: null,
  classId: null,
  status: "all", // "ok", "failed"
  review: "all", // "reviewed", "unreviewed"
  scoreFrom: null,
  scoreTo: null,
  marginFrom: null,
  marginTo: null,
  differing: false,
  sort: "order",
  descending: false,
});

/** What can be sorted by: the value of a row, where null comes last in either direction. */
const SORT_VALUES = {
  order: null,
  path: (rows, i) => rows.searchText(i),
  count: (rows, i) => rows.count(i),
  pointers: (rows, i) => rows.pointers(i).length,
  className: (rows, i) => rows.className(i),
  classScore: (rows, i) => rows.classScore(i),
  margin: (rows, i) => rows.margin(i),
  difference: (rows, i) => rows.difference(i),
};

/** Return the numbers of the rows that `query` asks for, in its order. */
export function select(rows, query) {
  const found = [];
  const words = query.text.toLowerCase().split(/\s+/).filter(Boolean);
  for (let i = 0; i < rows.length; i++) {
    if (matches(rows, i, query, words)) found.push(i);
  }
  const value = SORT_VALUES[query.sort];
  if (value === null) return query.descending ? found.reverse() : found;
  const keys = new Map(found.map((i) => [i, value(rows, i)]));
  const direction = query.descending ? -1 : 1;
  return found.sort((a, b) => compare(keys.get(a), keys.get(b), direction) || a - b);
}

function matches(rows, i, query, words) {
  const failed = rows.error(i) !== null;
  if (query.status !== "all" && failed !== (query.status === "failed")) return false;
  if (query.review !== "all" && rows.reviewed(i) !== (query.review === "reviewed")) return false;
  if (query.review === "unreviewed" && failed) return false; // nothing to review in it
  if (query.classId !== null && !rows.isOfClass(i, query.classId)) return false;
  if (query.differing && !(rows.difference(i) > 0)) return false;
  return (
    within(rows.count(i), query.countFrom, query.countTo) &&
    within(rows.classScore(i), query.scoreFrom, query.scoreTo) &&
    within(rows.margin(i), query.marginFrom, query.marginTo) &&
    words.every((word) => rows.searchText(i).includes(word))
  );
}

function within(value, from, to) {
  if (from === null && to === null) return true;
  return value !== null && (from === null || value >= from) && (to === null || value <= to);
}

function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (a === b) return 0;
  return a < b ? -direction : direction;
}
