"""What commands say of labels that cannot tell right counts from wrong ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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
