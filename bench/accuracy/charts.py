"""Charts of an evaluation, as PNG: Figures 2 and 3 of the paper, and the confusion matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.bench.charts import INK, MUTED, draw_panels, save_chart
from pc_engine.modes import MODES

# Of modes, by their places among them all.
_COLOURS = ("#2f6f9f", "#c8553d", "#3f8f5b", "#8063a8", "#b8860b", "#4d4d4d")
# Inches.
_WIDEST = 30
# Labels of a matrix whose cells have room for their numbers.
_MOST_NUMBERED = 30
_PUBLISHED_MARKS = {"C2P (paper)": ("c2p", "o"), "P2C (paper)": ("p2c", "s")}


def mode_colour(name: str) -> str:
    """Return the colour of a mode, the same in all charts."""
    return _COLOURS[list(MODES).index(name) % len(_COLOURS)]


def count_chart(report: Mapping[str, Any], path: Path) -> None:
    """Draw the count accuracy per label of each mode with its interval, and the paper's (Figure 2)."""
    modes = report["modes"]
    names = [*next(iter(modes.values()))["confusion"]["labels"], "mean"]
    figure, (axes,) = draw_panels(1, width=min(max(7.5, len(names)), _WIDEST), height=3.8)
    width = 0.8 / len(modes)
    offsets = {mode: (place - (len(modes) - 1) / 2) * width for place, mode in enumerate(modes)}
    for mode, figures in modes.items():
        found, intervals = figures["count_accuracy"], figures["count_accuracy_interval"]
        known = [i for i, name in enumerate(names) if name in found]
        across, up = np.array(known) + offsets[mode], np.array([found[names[i]] for i in known])
        low, high = np.array([intervals[names[i]] for i in known]).T
        # A percentile interval need not hold the figure itself.
        errors = np.maximum([up - low, high - up], 0)
        axes.bar(across, up, width * 0.95, color=mode_colour(mode), label=mode, yerr=errors, ecolor=INK, capsize=2)
    for name, (mode, mark) in _published_marks(report, "count_accuracy"):
        published = np.array(report["published"]["count_accuracy"][name]) / 100
        places = np.arange(len(published)) + offsets.get(mode, 0)
        axes.plot(places, published, mark, color=mode_colour(mode), markeredgecolor="white", label=f"{name}, on SOS")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("true count")
    axes.set_ylabel("count accuracy")
    axes.set_title(title_of(report), fontsize=10)
    axes.legend(fontsize=7, ncols=len(modes) + 2, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    save_chart(figure, path)


def confusion_chart(report: Mapping[str, Any], path: Path) -> None:
    """Draw each mode's confusion matrix: images, shaded by their share of the true count's."""
    modes = report["modes"]
    n_labels = len(next(iter(modes.values()))["confusion"]["labels"])
    side = min(max(3.1, 0.45 * n_labels), _WIDEST / 3)
    figure, panels = draw_panels(len(modes), width=0.6 + side * len(modes), height=0.3 + side)
    for axes, (mode, figures) in zip(panels, modes.items(), strict=True):
        labels = figures["confusion"]["labels"]
        counts = np.array(figures["confusion"]["rows_true"])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts) if n_labels <= _MOST_NUMBERED else ():
            colour = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("count found")
        axes.set_ylabel("true count")
        axes.set_title(mode, fontsize=10)
    figure.suptitle(title_of(report), fontsize=10)
    save_chart(figure, path)


def pointing_chart(report: Mapping[str, Any], path: Path) -> None:
    """Draw the pointing accuracy over the overlap ratio of each mode with its interval (Figure 3), and Table 2.

    A curve is of the pointers of all counts, as the paper's figure; the marks are means over 1, 2 and 3 objects.
    """
    figure, panels = draw_panels(2, width=10, height=4)
    for axes, overlap in zip(panels, ("containment", "intersection_over_union"), strict=True):
        for mode, figures in report["modes"].items():
            curve = figures["pointing_curve"]
            if curve[overlap][0] is None:
                continue
            # No overlap exceeds the last ratio, 1.
            across, up = curve["ratio"][:-1], curve[overlap][:-1]
            axes.plot(across, up, color=mode_colour(mode), label=mode)
            # Of a single image there is no interval.
            low, high = np.array([ends or (np.nan, np.nan) for ends in curve[f"{overlap}_interval"][:-1]]).T
            axes.fill_between(across, low, high, color=mode_colour(mode), alpha=0.15, linewidth=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("pointing accuracy where the count is right")
    panels[0].set_xlabel("overlap ratio: share of the pointer inside the box")
    panels[1].set_xlabel("overlap ratio: intersection over union")
    for name, (mode, mark) in _published_marks(report, "pointing"):
        table = report["published"]["pointing"][name]
        ratios, values = [float(ratio) for ratio in table], [float(np.mean(row)) for row in table.values()]
        label = f"{name}, Table 2, mean of 1 to 3"
        panels[0].plot(ratios, values, mark, color="white", markeredgecolor=mode_colour(mode), label=label)
    panels[0].legend(fontsize=7, loc="lower left")
    panels[0].axvline(0.5, color=MUTED, linewidth=0.5, zorder=0)
    panels[0].axvline(0.8, color=MUTED, linewidth=0.5, zorder=0)
    figure.suptitle(title_of(report), fontsize=10)
    save_chart(figure, path)


def _published_marks(report: Mapping[str, Any], table: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the published rows that are in a table of the report, which has none where its labels are others."""
    return ((name, mark) for name, mark in _PUBLISHED_MARKS.items() if name in report["published"][table])


def title_of(report: Mapping[str, Any]) -> str:
    """Return one line that says what was evaluated on what."""
    folds = report["folds"]
    unseen = " of other classes" if folds and folds.get("unseen_classes") else ""
    counter = f", counter in {folds['k']} folds{unseen}" if folds else ""
    return f"{report['model']} on {report['data']}, {report['images']} images{counter}"
