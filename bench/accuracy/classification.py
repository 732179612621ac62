"""Class accuracy (paper 5: top-1) of the modes that name a class, per count label and over all images with objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pc_engine.bench.accuracy.resampling import as_json, percentile_interval, resampled_sums, wilson_interval
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import LabelledImage, resolve_class_ids
from pc_engine.errors import DataError
from pc_engine.fitted.counter import count_label
from pc_engine.manifest import Manifest
from pc_engine.result import Result


def true_classes(images: Sequence[LabelledImage], manifest: Manifest) -> list[int]:
    """Return the logit of each image's class, as `resolve_class_ids` finds it; -1 where the network has none of it.

    A class that is called by a number, as of labels without names, is none of a network that names its classes.
    """
    if manifest.classes:
        names = {*manifest.classes}
        images = [
            replace(image, class_name=None)
            if image.class_name is not None and image.class_name.strip().isdecimal() and image.class_name not in names
            else image
            for image in images
        ]
    try:
        return [int(class_id) for class_id in resolve_class_ids(images, manifest).class_ids]
    except DataError:  # of other classes than the network's, which can count them all the same
        return [-1] * len(images)


def class_accuracy(truth: Truth, rows: Sequence[Result], class_ids: Sequence[int]) -> dict[str, Any]:
    """Compare the predicted classes of images with objects with the true ones.

    Parameters
    ----------
    truth, rows
        The images and one row each; where it names no class it takes no part.
    class_ids
        Of each image, as `true_classes` gives them; one of a class that the network does not know takes no part.

    Returns
    -------
    dict
        JSON-ready: ``"class_accuracy"`` (None without an image), its 95 % ``"class_accuracy_interval"`` by a bootstrap,
        or Wilson's where all classes are right, or all wrong, the number of ``"class_images"``, and
        ``"class_accuracy_by_count"`` by true count label that occurs.
    """
    judged = [
        (count_label(image.count, truth.labels), row.class_id == class_id)
        for image, row, class_id in zip(truth.images, rows, class_ids, strict=True)
        if image.count and row.class_id is not None and class_id >= 0
    ]
    if not judged:
        return {
            "class_accuracy": None,
            "class_accuracy_interval": None,
            "class_images": 0,
            "class_accuracy_by_count": {},
        }
    right = np.array([is_right for _, is_right in judged], np.float64)
    of_label = {label: np.array([found == label for found, _ in judged]) for label in truth.labels}
    share = float(right.mean())
    draws = resampled_sums(right[:, None], truth.seed)[:, 0] / len(right)
    return {
        "class_accuracy": share,
        "class_accuracy_interval": as_json(percentile_interval(draws, wilson_interval(share, len(right)))),
        "class_images": len(judged),
        "class_accuracy_by_count": {
            label: float(right[chosen].mean()) for label, chosen in of_label.items() if chosen.any()
        },
    }
