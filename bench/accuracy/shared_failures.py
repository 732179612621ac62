"""Images that several modes count wrong, all of them (paper 4.2: there both methods fail in about 10 %)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pc_engine.bench.accuracy.counting import label_intervals
from pc_engine.bench.accuracy.resampling import as_json, mean_over, resampled_sums, share_of
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.fitted.counter import label_indices
from pc_engine.result import Result


def shared_failures(truth: Truth, rows: Mapping[str, Sequence[Result]]) -> list[dict[str, Any]]:
    """Return how many images all modes count wrong, JSON-ready: of all but the last mode, and of all.

    Parameters
    ----------
    truth
        What the modes are judged by.
    rows
        By mode its rows. The last one may be made of those before it, which is why these are told apart.

    Returns
    -------
    list
        An entry for each group of two modes or more, none with one: ``"modes"``, the number of ``"images"`` that all of
        them could read, ``"wrong"``, the share of these that all count wrong, by true label, the mean over labels and
        ``"overall"``, with ``"wrong_interval"``, and ``"independent"``, what that share would be if the modes failed
        independently of each other at each label: the product of their own shares. Groups that share no image are left
        out.
    """
    names = [*rows]
    groups = [group for group in (names[:-1], names) if len(group) > 1]
    found = (_of_group(truth, {name: rows[name] for name in group}) for group in groups)
    return [each for each in found if each is not None]


def _of_group(truth: Truth, rows: Mapping[str, Sequence[Result]]) -> dict[str, Any] | None:
    labels = truth.labels
    counts = [
        (image.count, *(row.count for row in of_image))
        for image, *of_image in zip(truth.images, *rows.values(), strict=True)
        if image.count is not None and all(row.count is not None for row in of_image)
    ]
    if not counts:
        return None
    told = np.column_stack([label_indices(of_mode, labels) for of_mode in zip(*counts, strict=True)])
    of_label = told[:, :1] == np.arange(len(labels))
    wrong = told[:, 1:] != told[:, :1]
    every = of_label & wrong.all(axis=1)[:, None]
    images = of_label.sum(axis=0)
    sums = resampled_sums(np.column_stack([every, of_label]), truth.seed)
    intervals = label_intervals(every, of_label, labels, sums)
    alone = share_of(np.stack([(of_label & each[:, None]).sum(axis=0) for each in wrong.T]), images)
    return {
        "modes": [*rows],
        "images": len(counts),
        "wrong": _figures(share_of(every.sum(axis=0), images), images, labels),
        "wrong_interval": {name: as_json(interval) for name, interval in intervals.items()},
        "independent": _figures(alone.prod(axis=0), images, labels),
    }


def _figures(shares: np.ndarray, images: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Return shares by label that occurs, their mean, and that of all images."""
    present = np.flatnonzero(images).tolist()
    overall = (shares[present] * images[present]).sum() / images.sum()
    found = {labels[i]: float(shares[i]) for i in present}
    return {**found, "mean": float(mean_over(shares, present)), "overall": float(overall)}
