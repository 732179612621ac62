"""What a mode said of a batch, as rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pc_engine.decoding.read_ahead import Entry
from pc_engine.fitted.counter import DEFAULT_LABELS, row_label
from pc_engine.host_outcome import HostOutcome
from pc_engine.model import Model
from pc_engine.pipeline import TapBatch
from pc_engine.result import Result, error_result


def batch_rows(batch: TapBatch, answer: HostOutcome, model: Model, mode: str) -> Iterator[Result]:
    """Yield the row of each image of ``batch`` that went through the network, in order."""
    # Plain numbers for the whole batch at once: a GPU leaves a row few microseconds.
    n = len(batch.rows)
    counts, finite = answer.count.tolist(), answer.finite.tolist()
    scores = answer.count_scores
    overflow = [False] * n if scores is None else (~np.isfinite(scores).all(axis=1)).tolist()
    listed = [None] * n if scores is None else scores.tolist()
    class_ids = [None] * n if answer.class_id is None else answer.class_id.tolist()
    class_scores = [None] * n if answer.class_score is None else answer.class_score.tolist()
    class_name, name = model.manifest.class_name, model.name
    # Only the counter's own counts are sure to fall under its labels, which may end with a plain "3".
    counter = None if scores is None else model.parts.counter
    labels = DEFAULT_LABELS if counter is None else counter.labels
    images = [batch.entries[row].image for row in batch.rows]
    sizes = [(0, 0) if image is None else (image.width, image.height) for image in images]
    pointers = answer.pointers_in_pixels(sizes, class_name)
    label_of = {count: row_label(count, labels) for count in set(counts) if count >= 0}
    for k, row in enumerate(batch.rows):
        entry = batch.entries[row]
        if not finite[k]:
            yield failed_row(entry, "The network returned values that are not finite for this image.", model, mode)
            continue
        if overflow[k]:
            yield failed_row(
                entry, "The count SVM's scores overflow for this image: its features are too large.", model, mode
            )
            continue
        if counts[k] < 0:
            yield failed_row(
                entry, "The heatmap of this image cannot be used: it overflows, or is negative.", model, mode
            )
            continue
        (width, height), score, class_id = sizes[k], listed[k], class_ids[k]
        yield Result(
            path=entry.name,
            status="ok",
            error=None,
            width=width,
            height=height,
            mode=mode,
            model=name,
            count=counts[k],
            count_label=label_of[counts[k]],
            count_scores=None if score is None else dict(zip(labels, score, strict=True)),
            class_id=class_id,
            class_name=None if class_id is None else class_name(class_id),
            class_score=class_scores[k],
            pointers=pointers[k],
        )


def failed_row(entry: Entry, message: str, model: Model, mode: str) -> Result:
    """Return the row of an image without an answer."""
    return error_result(entry.name, message, mode=mode, model=model.name)
