"""Images that several modes count wrong, all of them (paper 4.2: there both methods fail in about 10 %)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pc_engine.bench.accuracy.resampling import (
    as_json,
    interval_of_mean,
    mean_over,
    percentile_interval,
    resampled_sums,
    share_of,
    wilson_interval,
)
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.fitted.counter import count_label
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
    told = np.array([[labels.index(count_label(count, labels)) for count in each] for each in counts])
    of_label = told[:, :1] == np.arange(len(labels))
    wrong = told[:, 1:] != told[:, :1]
    every = of_label & wrong.all(axis=1)[:, None]
    images = of_label.sum(axis=0)
    present = np.flatnonzero(images).tolist()
    alone = share_of(np.stack([(of_label & each[:, None]).sum(axis=0) for each in wrong.T]), images)
    return {
        "modes": [*rows],
        "images": len(counts),
        "wrong": _figures(share_of(every.sum(axis=0), images), images, labels),
        "wrong_interval": _intervals(every, of_label, present, truth),
        "independent": _figures(alone.prod(axis=0), images, labels),
    }


def _figures(shares: np.ndarray, images: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Return shares by label that occurs, their mean, and that of all images."""
    present = np.flatnonzero(images).tolist()
    overall = (shares[present] * images[present]).sum() / images.sum()
    found = {labels[i]: float(shares[i]) for i in present}
    return {**found, "mean": float(mean_over(shares, present)), "overall": float(overall)}


def _intervals(
    every: np.ndarray, of_label: np.ndarray, present: Sequence[int], truth: Truth
) -> dict[str, list[float] | None]:
    n = len(of_label)
    wrong, images = np.split(resampled_sums(np.column_stack([every, of_label]), truth.seed), 2, axis=1)
    draws = share_of(wrong, images)
    seen = share_of(every.sum(axis=0), of_label.sum(axis=0))
    sizes = of_label.sum(axis=0)
    found = {
        truth.labels[i]: percentile_interval(draws[:, i], wilson_interval(float(seen[i]), int(sizes[i])))
        for i in present
    }
    found["mean"] = percentile_interval(mean_over(draws, present), interval_of_mean(seen[present], sizes[present]))
    found["overall"] = percentile_interval(wrong.sum(axis=1) / n, wilson_interval(float(every.sum() / n), n))
    return {name: as_json(interval) for name, interval in found.items()}
