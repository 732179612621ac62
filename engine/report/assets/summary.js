// The upper part of a report: the run in figures.

import { element, svgElement } from "./dom.js";
import { duration, percent, plural, short, whole } from "./format.js";

/** Return what stands above the gallery; `filter(changes)` lets the gallery show what a bar or a failure is about. */
export function summary(head, filter) {
  const { figures, compare } = head;
  return [
    title(head),
    element("section", { class: "figures", "aria-label": "Figures" }, ...headline(figures)),
    compare === null ? null : comparison(compare, figures.mode, filter),
    element(
      "section",
      { class: "charts" },
      figures.counts.length ? countChart(figures.counts, filter) : null,
      figures.classes.length ? classChart(head, filter) : null,
      Object.keys(figures.stages).length ? stageChart(figures.stages) : null,
    ),
    figures.failures.length ? failures(figures, filter) : null,
  ].filter((part) => part !== null);
}

function title({ name, figures }) {
  const machine = [figures.backend, figures.precision].filter(Boolean).join(" ");
  const parts = [figures.model, figures.mode, machine, figures.device].filter(Boolean);
  return element(
    "header",
    { class: "title" },
    element("p", { class: "kind" }, "Report of a run"),
    element("h1", {}, element("bdi", {}, name)),
    element("p", { class: "subtitle" }, parts.join(" · ")),
    figures.state === "running" || figures.state === "interrupted"
      ? element("p", { class: "unfinished" }, unfinishedText(figures))
      : null,
  );
}

function unfinishedText({ state, images, total }) {
  const done = total === null || total === undefined ? "" : ` ${whole(images)} of ${plural(total, "image")} are done.`;
  return state === "running"
    ? `The run was still going when this page was made.${done}`
    : `The run was stopped before it finished.${done} Run the same command again to go on.`;
}

function headline(figures) {
  const counted = figures.images - figures.failed;
  const cards = [
    figure(whole(figures.images), figures.images === 1 ? "image" : "images"),
    figure(whole(figures.failed), "failed", figures.failed > 0 ? "alarming" : ""),
    figure(counted ? short(figures.pointers / counted) : "–", "pointers per image"),
  ];
  if (figures.reviewed > 0) {
    cards.push(figure(whole(figures.reviewed), "reviewed"));
    cards.push(figure(whole(figures.right), `of ${whole(figures.reviewed)} reviewed were counted right`));
  }
  if (Number.isFinite(figures.images_per_second)) cards.push(figure(short(figures.images_per_second), "images/s"));
  if (Number.isFinite(figures.seconds)) cards.push(figure(duration(figures.seconds), "from start to end"));
  return cards;
}

function figure(value, label, kind = "") {
  return element("div", { class: `figure ${kind}` }, element("strong", {}, value), element("span", {}, label));
}

function comparison(compare, mode, filter) {
  const agree = compare.both ? percent(compare.same / compare.both) : "–";
  return element(
    "section",
    { class: "comparison" },
    element(
      "p",
      {},
      "Compared with ",
      element("bdi", { class: "name" }, compare.name),
      ` (${compare.mode}): the count is the same in ${agree} of the ${plural(compare.both, "image")} that both counted.`,
      compare.reviewed === 0
        ? null
        : ` Before corrections, this run (${mode}) was right in ${whole(compare.right)} and the other in ` +
          `${whole(compare.other_right)} of ${plural(compare.reviewed, "reviewed photo")}.`,
    ),
    element(
      "button",
      { type: "button", onclick: () => filter({ sort: "difference", descending: true, differing: true }) },
      "Show where they differ",
    ),
  );
}

function panel(heading, ...children) {
  return element("div", { class: "panel" }, element("h2", {}, heading), ...children);
}

const [CHART_WIDTH, CHART_HEIGHT, ROOM_ABOVE, ROOM_BELOW] = [480, 240, 22, 24];

function countChart(bars, filter) {
  const most = Math.max(...bars.map((bar) => bar.n));
  const step = CHART_WIDTH / bars.length;
  const full = CHART_HEIGHT - ROOM_ABOVE - ROOM_BELOW;
  const thickness = Math.min(step * 0.72, 56);
  const drawn = bars.map((bar, k) => {
    const height = bar.n === 0 ? 0 : Math.max((full * bar.n) / most, 2);
    const centre = step * (k + 0.5);
    const choose = () => filter({ countFrom: bar.from, countTo: bar.to, status: "all" });
    return svgElement(
      "g",
      {
        class: "bar",
        role: "button",
        tabindex: 0,
        "aria-label": `${bar.label}: ${plural(bar.n, "image")}`,
        onclick: choose,
        onkeydown: (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose()),
      },
      svgElement("title", {}, `${bar.label}: ${plural(bar.n, "image")}`),
      svgElement("rect", { class: "target", x: step * k, y: 0, width: step, height: CHART_HEIGHT }),
      svgElement("rect", {
        class: "fill",
        x: centre - thickness / 2,
        y: ROOM_ABOVE + full - height,
        width: thickness,
        height,
        rx: 2,
      }),
      bars.length > 16
        ? null
        : svgElement("text", { class: "n", x: centre, y: ROOM_ABOVE + full - height - 6 }, whole(bar.n)),
      svgElement("text", { class: "label", x: centre, y: CHART_HEIGHT - 6 }, bar.label),
    );
  });
  return panel(
    "Images by count",
    svgElement(
      "svg",
      { class: bars.length > 8 ? "histogram" : "histogram few", viewBox: `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`, role: "group" },
      svgElement("line", { class: "axis", x1: 0, x2: CHART_WIDTH, y1: ROOM_ABOVE + full, y2: ROOM_ABOVE + full }),
      ...drawn,
    ),
  );
}

function classChart({ figures, classes }, filter) {
  const lines = figures.classes.map(({ name, n }) => ({
    label: name,
    value: n,
    text: whole(n),
    choose: () => filter({ classId: classes.indexOf(name) }),
  }));
  const rest = figures.other_classes;
  return panel(
    "Images by class",
    lineChart(lines),
    rest > 0 ? element("p", { class: "note" }, `and ${whole(rest)} more ${rest === 1 ? "class" : "classes"}`) : null,
  );
}

function stageChart(stages) {
  const lines = Object.entries(stages)
    .filter(([, seconds]) => Number.isFinite(seconds))
    .map(([label, value]) => ({ label, value, text: duration(value) }));
  return panel(
    "Seconds by stage",
    lineChart(lines),
    element("p", { class: "note" }, "Stages run side by side: decoding in several threads."),
  );
}

function lineChart(lines) {
  const most = Math.max(...lines.map((line) => line.value), Number.MIN_VALUE);
  return element(
    "div",
    { class: "lines" },
    ...lines.map(({ label, value, text, choose }) => {
      const fill = element("span", { class: "fill" });
      fill.style.width = `${(100 * value) / most}%`;
      const parts = [
        element("span", { class: "label", dir: "auto" }, label),
        element("span", { class: "track" }, fill),
        element("span", { class: "n" }, text),
      ];
      return choose
        ? element("button", { type: "button", class: "line", title: label, onclick: choose }, ...parts)
        : element("div", { class: "line" }, ...parts);
    }),
  );
}

function failures(figures, filter) {
  return element(
    "section",
    { class: "panel failures" },
    element(
      "div",
      { class: "heading" },
      element("h2", {}, "Failures by reason"),
      element("button", { type: "button", onclick: () => filter({ status: "failed" }) }, "Show them"),
    ),
    ...figures.failures.map(({ reason, n, examples }) =>
      element(
        "details",
        {},
        element("summary", {}, element("span", { class: "n" }, whole(n)), element("bdi", {}, reason)),
        element("ul", {}, ...examples.map(({ path, error }) => element(
          "li",
          {},
          element("bdi", {}, path),
          error === reason ? null : element("span", { class: "note" }, ` ${error}`),
        ))),
      ),
    ),
  );
}
