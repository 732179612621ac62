// The controls above a gallery: what it shows, and in which order.

import { element } from "./dom.js";
import { plural, whole } from "./format.js";
import { EVERYTHING } from "./query.js";

const TYPING_MS = 150;
const ABOUT_MARGIN = "How far the best count's score leads the next: where this is small, the count is in doubt";

/** The controls. `onchange(query)` is called whenever what they ask for has changed. */
export class Filters {
  constructor(rows, onchange, { reviewing = false } = {}) {
    this.total = rows.length;
    this.onchange = onchange;
    this.initial = EVERYTHING;
    this.query = { ...EVERYTHING };
    this.controls = new Map();
    this.summary = element("output", { class: "shown" });
    this.clear = element("button", { type: "button", class: "quiet", onclick: () => this.set(this.initial) }, "Show all");
    const facets = {
      // Whoever reviews may name the first.
      classes: reviewing || rows.head.classes.length > 0,
      scored: rows.some("classScore"),
      margins: rows.some("margin"),
      compared: Boolean(rows.head.compare),
      failures: rows.head.errors.length > 0,
      reviewed: reviewing || rows.some("reviewed"),
    };
    this.root = element(
      "form",
      { class: "filters", onsubmit: (event) => event.preventDefault() },
      this.search(),
      this.range("Count", "countFrom", "countTo", { step: 1, min: 0 }),
      facets.classes ? this.classChoice(rows.head.classes) : null,
      facets.scored ? this.range("Class score", "scoreFrom", "scoreTo", { step: 0.01, min: 0, max: 1 }) : null,
      facets.margins ? this.range("Margin", "marginFrom", "marginTo", { step: 0.01, min: 0, title: ABOUT_MARGIN }) : null,
      facets.failures ? this.choice("Status", "status", [["all", "All"], ["ok", "Done"], ["failed", "Failed"]]) : null,
      facets.reviewed
        ? this.choice("Review", "review", [["all", "All"], ["unreviewed", "Not reviewed"], ["reviewed", "Reviewed"]])
        : null,
      facets.compared ? this.choice("Both runs", "differing", [["", "All"], ["1", "Counts differ"]], Boolean) : null,
      this.sorting(facets),
      element("p", { class: "result" }, this.summary, this.clear),
    );
  }

  /** Ask for something else; what `changes` does not name stays. */
  set(changes) {
    Object.assign(this.query, changes);
    for (const [name, control] of this.controls) control.show(this.query[name]);
    this.onchange(this.query);
  }

  /** Say how many images are shown. */
  showNumber(n) {
    this.summary.value = n === this.total ? plural(n, "image") : `${whole(n)} of ${plural(this.total, "image")}`;
    this.clear.hidden = Object.keys(EVERYTHING).every((name) => this.query[name] === this.initial[name]);
  }

  search() {
    let timer = 0;
    const input = element("input", {
      type: "search",
      placeholder: "Part of the path",
      "aria-label": "Search in the path",
      oninput: () => {
        clearTimeout(timer);
        timer = setTimeout(() => this.change("text", input.value), TYPING_MS);
      },
    });
    this.controls.set("text", { show: (value) => (input.value = value) });
    return element("label", { class: "wide" }, element("span", {}, "Search"), input);
  }

  range(label, from, to, limits) {
    const inputs = [from, to].map((name, end) => {
      const input = element("input", {
        type: "number",
        inputmode: "decimal",
        placeholder: end ? "most" : "least",
        "aria-label": `${label}, ${end ? "at most" : "at least"}`,
        ...limits,
        oninput: () => this.change(name, input.value === "" ? null : Number(input.value)),
      });
      this.controls.set(name, { show: (value) => (input.value = value ?? "") });
      return input;
    });
    return element("fieldset", {}, element("legend", {}, label), ...inputs);
  }

  choice(label, name, options, parse = String) {
    const select = element(
      "select",
      { onchange: () => this.change(name, parse(select.value)) },
      ...options.map(([value, text]) => element("option", { value }, text)),
    );
    this.controls.set(name, { show: (value) => (select.value = value === false ? "" : value === true ? "1" : value) });
    return element("label", {}, element("span", {}, label), select);
  }

  classChoice(classes) {
    const select = element("select", {
      onchange: () => this.change("classId", select.value === "" ? null : Number(select.value)),
    });
    this.controls.set("classId", { show: (value) => (select.value = value ?? "") });
    this.classes = { select, field: element("label", {}, element("span", {}, "Class"), select), listed: -1 };
    this.listClasses(classes);
    return this.classes.field;
  }

  /** Offer these classes; nothing is done where they are as many as before. */
  listClasses(classes) {
    const { select, field, listed } = this.classes;
    if (classes.length === listed) return;
    const byName = classes.map((text, id) => [id, text]).sort((a, b) => (a[1] < b[1] ? -1 : 1));
    select.replaceChildren(
      element("option", { value: "" }, "All"),
      ...byName.map(([id, text]) => element("option", { value: id }, text)),
    );
    select.value = this.query.classId ?? "";
    field.hidden = classes.length === 0;
    this.classes.listed = classes.length;
  }

  sorting(facets) {
    const options = [
      ["order", "Order of the run"],
      ["path", "Path"],
      ["count", "Count"],
      ...(facets.classes ? [["className", "Class"]] : []),
      ...(facets.scored ? [["classScore", "Class score"]] : []),
      ...(facets.margins ? [["margin", "Margin of the count"]] : []),
      ...(facets.compared ? [["difference", "Difference in counts"]] : []),
    ];
    const direction = element("button", {
      type: "button",
      class: "direction",
      onclick: () => this.set({ descending: !this.query.descending }),
    });
    this.controls.set("descending", {
      show: (value) => {
        direction.textContent = value ? "↓" : "↑";
        direction.setAttribute("aria-label", value ? "Descending; change to ascending" : "Ascending; change to descending");
        direction.title = value ? "Descending" : "Ascending";
      },
    });
    this.controls.get("descending").show(false);
    const field = this.choice("Sort by", "sort", options);
    return element("div", { class: "sorting" }, field, direction);
  }

  change(name, value) {
    this.query[name] = value;
    this.onchange(this.query);
  }
}
