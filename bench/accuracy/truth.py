"""What rows are judged by: labelled images, the count labels, and the seed of the intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pc_engine.bench.accuracy.settings import EvaluationSettings
from pc_engine.datasets import LabelledImage, LabelledSet
from pc_engine.errors import DataError
from pc_engine.fitted.counter import DEFAULT_LABELS, LARGEST_LABEL, is_open, labels_up_to, last_count
from pc_engine.model import Model
from pc_engine.result import Result


@dataclass(frozen=True, eq=False)
class Truth:
    """What n rows are judged by.

    Attributes
    ----------
    images
        Those that the rows are of, in their order.
    labels
        The count labels.
    seed
        Of the bootstrap intervals.
    """

    images: Sequence[LabelledImage]
    labels: tuple[str, ...] = DEFAULT_LABELS
    seed: int = 0

    def counts(self, rows: Sequence[Result]) -> list[int]:
        """Return the true counts of the images that could be read, by their rows."""
        return [image.count for image, row in zip(self.images, rows, strict=True) if image.count is not None and row.ok]


def counted_images(data: str, labelled: LabelledSet) -> list[LabelledImage]:
    """Return the images that have a count; raise DataError, with the name of the data, where none has."""
    images = [image for image in labelled.images if image.count is not None]
    if not images:
        raise DataError(f"None of the images of {data} has a count: give a CSV with the columns path,count.")
    return images


def judged_labels(settings: EvaluationSettings, model: Model) -> tuple[str, ...]:
    """Return the count labels to judge ``model`` by: as far as its counter tells counts apart, none left out.

    A counter learns no label that none of its images had; images with such a count are judged all the same. Where it
    has no open-ended label, one follows its last.
    """
    if settings.max_count is not None:
        return labels_up_to(settings.max_count)
    counter = model.parts.counter
    if counter is None:
        return DEFAULT_LABELS
    last = last_count(counter.labels) + (not is_open(counter.labels[-1]))
    return labels_up_to(min(last, LARGEST_LABEL))
