"""Charts of a failure analysis, as PNG: one a curve, with what is expected of images of such counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.bench.accuracy.charts import mode_colour, title_of
from pc_engine.bench.accuracy.failure_analysis import AXES, FEWEST_SHOWN, FIGURES, bin_name
from pc_engine.bench.charts import draw_panels, save_chart

_ACROSS = {
    "scale": "mean size of the image's objects: √(box / picture)",
    "spacing": "smallest gap of two objects over their size",
    "class_frequency": "share of the class among what the counter was fitted on, %",
}
_TITLES = {
    "right": "count right",
    "too_low": "count too low",
    "too_high": "count too high",
    "pointing": "pointing at .5 where right",
}
# What a bin's images are counted by, for each figure.
_NUMBERS = {"pointing": "pointing_images"}


def failure_charts(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw ``failures-scale.png`` and so on of a report of `evaluate`; what was not measured gives no chart.

    Bins of fewer than `FEWEST_SHOWN` images are left out.
    """
    drawn = []
    for axis in AXES:
        modes = {
            mode: _large(figures["failure_analysis"][axis.name]["bins"]) for mode, figures in report["modes"].items()
        }
        if any(len(bins) > 1 for bins in modes.values()):
            drawn.append(folder / f"failures-{axis.name.replace('_', '-')}.png")
            _draw(axis.name, modes, title_of(report), drawn[-1])
    return drawn


def _draw(axis: str, modes: Mapping[str, Sequence[Mapping[str, Any]]], title: str, path: Path) -> None:
    figure, panels = draw_panels(len(FIGURES), width=13, height=3.8)
    # All modes saw the same images, but for those that could not be read.
    longest = max(modes.values(), key=len)
    places = {entry["up_to"]: place for place, entry in enumerate(longest)}
    for axes, name in zip(panels, FIGURES, strict=True):
        for number, (mode, bins) in enumerate(modes.items()):
            known = [
                entry
                for entry in bins
                if entry[name] is not None and entry[_NUMBERS.get(name, "images")] >= FEWEST_SHOWN
            ]
            if not known:
                continue
            across = np.array([places[entry["up_to"]] for entry in known])
            beside = across + 0.12 * (number - (len(modes) - 1) / 2)
            up = np.array([entry[name] for entry in known])
            low, high = np.array([entry[f"{name}_interval"] for entry in known]).T
            # A percentile interval need not hold the figure itself.
            errors = np.maximum([up - low, high - up], 0)
            colour = mode_colour(mode)
            axes.errorbar(
                beside, up, errors, color=colour, label=mode, marker="o", markersize=3, capsize=2, linewidth=1.4
            )
            expected = [entry[f"{name}_expected"] for entry in known]
            axes.plot(beside, expected, ":", color=colour, linewidth=1)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(-0.5, len(longest) - 0.5)
        axes.set_title(_TITLES[name], fontsize=9)
        axes.set_xticks(
            range(len(longest)),
            [f"{bin_name(axis, entry)} ({entry['images']})" for entry in longest],
            rotation=90,
            fontsize=7,
        )
    alike = "counts and scales" if axis == "spacing" else "counts"
    panels[0].plot([], [], ":", color="black", linewidth=1, label=f"expected of images with these true {alike}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(modes) + 1, fontsize=8)
    figure.suptitle(f"{title}\nby {_ACROSS[axis]} (images)", fontsize=10)
    save_chart(figure, path)


def _large(bins: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in bins if entry["images"] >= FEWEST_SHOWN]
