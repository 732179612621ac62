"""The failure analysis of ``pc-engine evaluate`` as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pc_engine.cli.console import percent, percents, print_line, print_table
from pc_engine.cli.data_notes import why_none_fit

_TITLES = {
    "scale": "the mean size of an image's objects, √(box / picture)",
    "spacing": "the smallest gap of two objects over their size",
    "class_frequency": "the share of the image's class among what the counter was fitted on, in per cent",
}
_COLUMNS = ("n", "right", "95 %", "exp.", "low", "high", "n", "pointing", "95 %", "exp.")


def print_failures(report: Mapping[str, Any]) -> None:
    """Print each curve of each mode with what the images' counts let expect, and the classes."""
    from pc_engine.bench.accuracy.failure_analysis import FEWEST_SHOWN, bin_name

    shown = False
    for mode, figures in report["modes"].items():
        analysis = figures["failure_analysis"]
        for axis, title in _TITLES.items():
            bins = analysis[axis]["bins"]
            if len(bins) > 1:
                _print(f"{title} ({mode})", ((bin_name(axis, entry), entry) for entry in bins))
                shown = True
        if len(analysis["classes"]) > 1:
            _print(f"class ({mode})", ((entry["class"], entry) for entry in analysis["classes"]))
            shown = True
    if shown:
        print_line(
            "In per cent: counts that are right, too low and too high; pointers at overlap .5 where the count is "
            "right; exp.: what is expected of images with these true counts (over spacing: and scales)."
        )
    else:
        *_, last = report["modes"].values()
        with_boxes = last["failure_analysis"]["scale"]["bins"]
        why = "all images with boxes are in one bin" if with_boxes else why_none_fit(last["boxes"])
        print_line(
            f"Nothing was compared over scale, spacing and class: {why}, and fewer than two classes have "
            f"{FEWEST_SHOWN} images."
        )


def _print(title: str, entries: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
    print_table(
        f"By {title}",
        ("", *(f">{name}" for name in _COLUMNS)),
        (
            (
                name,
                str(entry["images"]),
                *_judged(entry, "right"),
                percent(entry["too_low"]),
                percent(entry["too_high"]),
                str(entry["pointing_images"]),
                *_judged(entry, "pointing"),
            )
            for name, entry in entries
        ),
    )


def _judged(entry: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    return percent(entry[name]), percents(entry[f"{name}_interval"]), percent(entry[f"{name}_expected"])
