"""What commands say of labelled data: labels that cannot tell right counts from wrong ones, and boxes left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pc_engine.cli.console import print_line


def counts_of_a_run(by_run: int, images: int) -> str:
    """Say that so many of the counts are a run's own."""
    return (
        f"{by_run:,} of {images:,} counts come from a run and are unreviewed (the labels say so under 'reviewed'): "
        f"whatever is fitted to them, or judged by them, takes them for the truth, so review the run first."
    )


def notes_on_labels(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield why figures that were measured on labelled images are too good, as far as is known."""
    if n := report.get("fitted_on_these"):
        yield (
            f"{n:,} of these {report['images']:,} images were used to fit the counter: its figures are too good; use "
            f"--folds 5, or other images."
        )
    if n := report.get("signatures_fitted_on_these"):
        yield (
            f"{n:,} of these {report['images']:,} images were used to make the signatures: the figures of p2c and "
            f"combined are too good, with --folds as well; use other images."
        )
    if n := report.get("by_run"):
        yield counts_of_a_run(n, report["images"])


def why_none_fit(boxes: Mapping[str, int]) -> str:
    """Return why no image had boxes to compare with, of what `BoxReport` says of them."""
    if boxes["disagree"] or boxes["outside"]:
        return "no image with objects has as many boxes within it as its count says"
    if boxes["no_boxes"]:
        return "the labels give no boxes of what they count"
    return "no image that could be read has objects"


def print_boxes(boxes: Mapping[str, int]) -> None:
    """Say which images and boxes took no part or were changed, if any."""
    notes = {
        "no_boxes": ("image with objects has no boxes", "images with objects have no boxes"),
        "disagree": (
            "image has a number of boxes other than its count and was not used",
            "images have a number of boxes other than their count and were not used",
        ),
        "clipped": (
            "box reached beyond its picture and was clipped",
            "boxes reached beyond their picture and were clipped",
        ),
        "outside": (
            "box lay outside its picture and was left out",
            "boxes lay outside their picture and were left out",
        ),
    }
    said = [
        f"{boxes[key]} {one if boxes[key] == 1 else several}" for key, (one, several) in notes.items() if boxes[key]
    ]
    if said:
        print_line(f"{'; '.join(said)}.")
