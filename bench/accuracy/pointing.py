"""Pointing accuracy, as in Table 2 and Figure 3 of the paper: do the pointers of a right count lie on the objects?

An image takes part where its count is right (as a label: 9 for 7 is right under "4+"), and its labels give boxes, as
many as they count. Its boxes are those of the class that is counted (`LabelledImage.counted_boxes`), cut to the frame
of the picture.

Matching (paper 4.1): walk through the true boxes in their order, each taking away a pointer whose overlap with it
exceeds the ratio. Where several do, it takes the one with the largest overlap; so the number matched never grows with
the ratio. The accuracy is the share of pointers taken; of as many as the label stands for, where there are fewer.

Overlap is containment, the share of the pointer's area inside the box, which favours small pointers; so intersection
over union is measured as well, and the mean area of the pointers reported beside both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pc_engine.bench.accuracy.overlap import overlaps
from pc_engine.bench.accuracy.resampling import (
    as_json,
    interval_of_gain,
    interval_of_mean,
    mean_over,
    percentile_interval,
    resampled_sums,
    share_of,
    wilson_interval,
)
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import Box, clip_to_frame
from pc_engine.fitted.counter import count_label, is_open, label_counts
from pc_engine.pointers import Pointer
from pc_engine.result import Result

#: Overlap ratios of the curve (Figure 3). None exceeds the last, 1.
RATIOS = tuple(step / 20 for step in range(1, 21))
#: Overlap ratios of Table 2.
TABLE_RATIOS = (0.5, 0.8)

#: Table 2 of the paper, on MSO: by ratio the accuracy for 1, 2 and 3 objects.
PUBLISHED_POINTING = {
    "C2P (paper)": {0.5: (0.87, 0.86, 0.84), 0.8: (0.76, 0.70, 0.63)},
    "P2C (paper)": {0.5: (0.92, 0.97, 0.95), 0.8: (0.81, 0.86, 0.85)},
}

# The two measures of overlap that the curve is given by.
_OVERLAPS = ("containment", "intersection_over_union")
_TABLE_PLACES = [RATIOS.index(ratio) for ratio in TABLE_RATIOS]


def match_pointers(overlap: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Let each box in turn take away a pointer that overlaps it by more than the ratio.

    Parameters
    ----------
    overlap
        Overlap of each pointer with each box, (P, B).
    ratios
        The R ratios to be exceeded.

    Returns
    -------
    np.ndarray
        Which pointer each box takes at each ratio, (R, B), -1 where it takes none.
    """
    n_pointers, n_boxes = overlap.shape
    limits = np.asarray(ratios, np.float64)
    taken = np.full((len(limits), n_boxes), -1)
    if not n_pointers:
        return taken
    free = np.ones((len(limits), n_pointers), bool)
    every = np.arange(len(limits))
    for box in range(n_boxes):
        candidates = np.where(free, overlap[:, box], -1.0)
        best = candidates.argmax(axis=1)
        takes = candidates[every, best] > limits
        taken[takes, box] = best[takes]
        free[every[takes], best[takes]] = False
    return taken


@dataclass(frozen=True)
class BoxReport:
    """Which images could take part in the measurement of pointing, and why others could not.

    Attributes
    ----------
    judged
        Images with a right count whose pointers were compared with boxes.
    wrong_count
        Images with boxes whose count was wrong.
    no_boxes
        Images with objects whose labels give no boxes of them.
    disagree
        Images whose boxes are not as many as their count says; they take no part.
    clipped, outside
        Boxes that reached out of the picture and were cut, and boxes that lay outside and were left out.
    """

    judged: int
    wrong_count: int
    no_boxes: int
    disagree: int
    clipped: int
    outside: int


@dataclass(frozen=True, eq=False)
class PointingAccuracy:
    """Pointing accuracy of one mode on one data set, over the n images that take part.

    Attributes
    ----------
    labels
        The count labels above 0.
    places
        Place of each image among those that were given, (n,).
    label
        Place of each image's label in ``labels``, (n,).
    due
        Pointers that each image should have or has, whichever is more, (n,).
    contained, united
        Pointers taken at each of `RATIOS` by containment and by intersection over union, (n, R).
    overlap
        Sum of the intersection over union of the pairs that a ratio of 0 gives, (n,).
    pointers, area
        Number of each image's pointers, and the sum of their areas as shares of the picture's, (n,).
    report
        What took part, and what did not.
    seed
        Of the intervals.
    """

    labels: tuple[str, ...]
    places: np.ndarray
    label: np.ndarray
    due: np.ndarray
    contained: np.ndarray
    united: np.ndarray
    overlap: np.ndarray
    pointers: np.ndarray
    area: np.ndarray
    report: BoxReport
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; None in the place of a figure that no image speaks of.

        Where resamples are all alike, as where all pointers are right, an interval is Wilson's with each image counted
        once, as its pointers may fail together; for the mean over labels it is `interval_of_mean` of these. There is
        none of a single image, and none where pointers have the same area in all.
        """
        by_label = [self._by_label(self.contained), self._by_label(self.united)]
        of_all = [self.contained, self.united, self.due, self.overlap, self.pointers, self.area]
        columns = np.column_stack([*by_label, *of_all])
        found = self._figures(columns.sum(axis=0)[None])
        spread = self._figures(resampled_sums(columns, self.seed)) if len(self.label) else None
        curve: dict[str, list[Any]] = {"ratio": list(RATIOS)}
        figures: dict[str, Any] = {}
        n = len(self.label)
        for name, values in found.items():
            draws = values[:0] if spread is None else spread[name]
            if name.startswith("pointing"):
                figures[name] = self._by_ratio([list(map(_number, shares)) for shares in values[0]])
                figures[f"{name}_interval"] = self._by_ratio(
                    [self._intervals(shares, draws[:, ratio]) for ratio, shares in enumerate(values[0])]
                )
            elif name in _OVERLAPS:
                curve[name] = [_number(value) for value in values[0]]
                ends = [
                    _interval(column, _of_several(share, n)) for column, share in zip(draws.T, values[0], strict=True)
                ]
                # Nothing exceeds the last ratio, in any image.
                curve[f"{name}_interval"] = [*ends[:-1], [0.0, 0.0] if n else None]
            else:
                figures[name] = _number(values[0])
                figures[f"{name}_interval"] = _interval(draws, _of_several(values[0], n) if name == "iou" else None)
        return {
            **figures,
            "pointing_images": dict(zip(self.labels, self._images.tolist(), strict=True)),
            "pointing_curve": curve,
            "boxes": vars(self.report).copy(),
        }

    def among(self, places: np.ndarray) -> PointingAccuracy:
        """Return the accuracy over those of the images that are at one of ``places``."""
        kept = np.isin(self.places, places)
        arrays = ("places", "label", "due", "contained", "united", "overlap", "pointers", "area")
        return replace(self, **{name: getattr(self, name)[kept] for name in arrays})

    def table(self, sums: np.ndarray) -> np.ndarray:
        """Return the mean accuracy at each ratio of Table 2, (R, ratios), from R sums of `columns`."""
        return self._table(sums)[..., -1]

    def columns(self) -> np.ndarray:
        """Return what each image adds to the table."""
        return self._by_label(self.contained)

    def gain_intervals(self, other: PointingAccuracy) -> list[tuple[float, float] | None]:
        """Return `interval_of_gain` at each ratio of Table 2 over ``other``, of the same images."""
        gains = (
            self.contained[:, _TABLE_PLACES] / self.due[:, None]
            - other.contained[:, _TABLE_PLACES] / other.due[:, None]
        )
        parts = [gains[self.label == label] for label in self._exact]
        if not parts:
            return [None] * len(TABLE_RATIOS)
        gained, lost = (np.array([np.maximum(sign * part, 0).mean(axis=0) for part in parts]).T for sign in (1, -1))
        images = self._images[self._exact]
        return [interval_of_gain(up, down, images) for up, down in zip(gained, lost, strict=True)]

    @property
    def _images(self) -> np.ndarray:
        """Number of images of each label, (L,)."""
        return np.bincount(self.label, minlength=len(self.labels))

    @property
    def _exact(self) -> list[int]:
        """The labels that occur and are not open-ended, over which the mean is taken."""
        return [i for i, label in enumerate(self.labels) if i in self.label and not is_open(label)]

    def _by_ratio(self, rows: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
        """Return ratio to name to value, from rows of values of the labels and their mean, one a ratio of Table 2."""
        names = (*self.labels, "mean")
        return {f"{ratio:g}": dict(zip(names, row, strict=True)) for ratio, row in zip(TABLE_RATIOS, rows, strict=True)}

    def _intervals(self, shares: np.ndarray, draws: np.ndarray) -> list[list[float] | None]:
        """Return the intervals of the labels' shares and their mean, (L + 1,), of which ``draws`` are the resamples."""
        images, exact = self._images, self._exact
        of_mean = interval_of_mean(shares[exact], images[exact]) if images[exact].sum() > 1 else None
        otherwise = [*(_of_several(share, n) for share, n in zip(shares, images, strict=False)), of_mean]
        return [_interval(column, ends) for column, ends in zip(draws.T, otherwise, strict=True)]

    def _by_label(self, taken: np.ndarray) -> np.ndarray:
        """Return (n, L * (ratios of Table 2 + 1)): what was taken and what was due, each in its label's columns."""
        columns = np.column_stack([taken[:, _TABLE_PLACES], self.due])
        of_label = self.label[:, None] == np.arange(len(self.labels))
        wide: np.ndarray = of_label[:, :, None] * columns[:, None, :]
        return wide.reshape(len(columns), len(self.labels) * columns.shape[1])

    def _table(self, sums: np.ndarray) -> np.ndarray:
        """Return the accuracies (..., ratios of Table 2, L + 1), the mean last, from sums of `_by_label`."""
        parts = sums.reshape(*sums.shape[:-1], len(self.labels), len(TABLE_RATIOS) + 1)
        shares = np.moveaxis(share_of(parts[..., :-1], parts[..., -1:]), -1, -2)
        return np.concatenate([shares, mean_over(shares, self._exact)[..., None]], axis=-1)

    def _figures(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """Return each figure (R, ...) from R sums of the columns that `to_dict` stacks."""
        wide, ratios = len(self.labels) * (len(TABLE_RATIOS) + 1), len(RATIOS)
        ends = np.cumsum([wide, wide, ratios, ratios, 1, 1, 1])
        by_contained, by_united, contained, united, due, overlap, pointers, area = np.split(sums, ends, axis=1)
        return {
            "pointing": self._table(by_contained),
            "pointing_iou": self._table(by_united),
            "containment": share_of(contained, due),
            "intersection_over_union": share_of(united, due),
            "iou": share_of(overlap, due)[:, 0],
            "mean_pointer_area": share_of(area, pointers)[:, 0],
        }


def pointing_accuracy(truth: Truth, rows: Sequence[Result]) -> PointingAccuracy:
    """Compare the pointers of ``rows`` with the boxes of the images, one row an image.

    Rows without a count and images without one are left out.
    """
    labels = truth.labels
    floors = dict(zip(labels, label_counts(labels).tolist(), strict=True))
    columns = {label: column for column, label in enumerate(label for label in labels if floors[label] > 0)}
    judged: list[tuple[Any, ...]] = []
    wrong = no_boxes = disagree = clipped = outside = 0
    for place, (image, row) in enumerate(zip(truth.images, rows, strict=True)):
        if not image.count or row.count is None or row.width is None or row.height is None:
            continue
        boxes, cut, beyond = clip_to_frame(image.counted_boxes, row.width, row.height)
        clipped, outside = clipped + cut, outside + beyond
        label = count_label(image.count, labels)
        if not boxes:
            no_boxes += 1
        elif count_label(len(boxes), labels) != label:
            disagree += 1
        elif count_label(row.count, labels) != label:
            wrong += 1
        else:
            due = max(len(row.pointers), floors[label])
            judged.append((place, columns[label], due, *_overlaps(row.pointers, boxes, row.width * row.height)))
    report = BoxReport(len(judged), wrong, no_boxes, disagree, clipped, outside)
    places, label_of, due_of, contained, united, overlap, n_pointers, area = (
        zip(*judged, strict=True) if judged else [()] * 8
    )
    return PointingAccuracy(
        labels=tuple(columns),
        places=np.array(places, np.int64),
        label=np.array(label_of, np.int64),
        due=np.array(due_of, np.float64),
        contained=np.array(contained, np.float64).reshape(-1, len(RATIOS)),
        united=np.array(united, np.float64).reshape(-1, len(RATIOS)),
        overlap=np.array(overlap, np.float64),
        pointers=np.array(n_pointers, np.float64),
        area=np.array(area, np.float64),
        report=report,
        seed=truth.seed,
    )


def pointing_gain(ours: PointingAccuracy, theirs: PointingAccuracy) -> dict[str, Any]:
    """Return how much better one points than another on the images that both count right, JSON-ready.

    Each is judged on the images that it counts right, which are not the same: one that counts few right is asked about
    the easy ones. By ratio of Table 2 the difference of the mean accuracies over the images that both are asked about,
    with its 95 % interval, and the number of these ``"images"``. Where resamples are all alike, as where both point as
    well at each, it is `interval_of_gain` of the share of each image's pointers; of a single image there is none.
    """
    shared = np.intersect1d(ours.places, theirs.places)
    if not len(shared):
        return {"images": 0}
    ours, theirs = ours.among(shared), theirs.among(shared)
    columns = np.column_stack([ours.columns(), theirs.columns()])

    def differences(sums: np.ndarray) -> np.ndarray:
        first, second = np.split(sums, 2, axis=1)
        gain: np.ndarray = ours.table(first) - theirs.table(second)
        return gain

    (found,), draws = differences(columns.sum(axis=0)[None]), differences(resampled_sums(columns, ours.seed))
    otherwise = ours.gain_intervals(theirs)
    gains = {
        f"{ratio:g}": {"gain": _number(found[k]), "interval": _interval(draws[:, k], otherwise[k])}
        for k, ratio in enumerate(TABLE_RATIOS)
    }
    return {"images": len(shared), **gains}


def _overlaps(
    pointers: Sequence[Pointer], boxes: Sequence[Box], frame: float
) -> tuple[np.ndarray, np.ndarray, float, int, float]:
    """Return pointers taken by containment and by IoU (R,), the IoU of the pairs, their number and relative area."""
    inside, union = overlaps(pointers, boxes)
    contained = (match_pointers(inside, RATIOS) >= 0).sum(axis=1)
    united = (match_pointers(union, RATIOS) >= 0).sum(axis=1)
    pairs = match_pointers(union, (0.0,))[0]
    paired = np.flatnonzero(pairs >= 0)
    area = sum(pointer.area for pointer in pointers) / frame
    return contained, united, float(union[pairs[paired], paired].sum()), len(pointers), area


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(draws: np.ndarray, otherwise: tuple[float, float] | None) -> list[float] | None:
    return as_json(percentile_interval(draws, otherwise))


def _of_several(share: float, images: int) -> tuple[float, float] | None:
    return wilson_interval(float(share), int(images)) if images > 1 else None
