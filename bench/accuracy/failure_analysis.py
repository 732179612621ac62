"""What counts and pointers fail at, as curves (paper 4.2): the size of objects, their spacing, and how common they are.

- **scale**: the mean over an image's objects of √(area of the box / area of the picture). The paper's "big-O" is its
  upper end, small objects are its lower end.
- **spacing**: the smallest gap between the boxes of two objects in units of their size (the mean of the square roots of
  their areas), of images with two objects or more; 0 where boxes touch or overlap. Parallel suppression and close-by
  confusion would show at its lower end.
- **class_frequency**: the share of the image's class among the images that its counter was fitted on; known where
  counters are fitted in folds. This is data bias of the counter: how often the network saw a class is not known here.
  Modes without a counter stand beside it as a control, as their images are the same.

Every bin says in how many of its images the count is right, too low and too high (as labels: 9 for 7 is right under
"4+"), and how many of the pointers due lie in their boxes by more than half where it is right. Images with many objects
are harder, and their objects are smaller and closer. So each figure has another beside it, the one *expected* from the
images' true counts alone: what it would be if each image were as good as all with its count are on this axis. Small
objects have large gaps for their size, too; so for spacing each image is compared with those of its count and its third
of the scales. What a scale, a spacing or a frequency does by itself is the difference of the two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pc_engine.bench.accuracy.pointing import RATIOS, PointingAccuracy
from pc_engine.bench.accuracy.resampling import as_json, percentile_interval, resampled_sums, share_of, wilson_interval
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import Box, LabelledImage, clip_to_frame
from pc_engine.fitted.counter import count_label, label_indices
from pc_engine.result import Result

#: What each bin is measured by.
FIGURES = ("right", "too_low", "too_high", "pointing")
#: Bins and classes with fewer images say little: charts leave them out, and classes are not listed.
FEWEST_SHOWN = 10

_THIRDS = 3
_POINTING_RATIO = RATIOS.index(0.5)
# Columns of what is summed up: a figure is the first over the second.
_SHARES = {"right": (0, 3), "too_low": (1, 3), "too_high": (2, 3), "pointing": (4, 5)}


@dataclass(frozen=True)
class Axis:
    """What images are sorted into bins by: each bin goes from above the limit before it up to its own."""

    name: str
    limits: tuple[float, ...]

    @property
    def bins(self) -> list[tuple[float | None, float | None]]:
        """What each bin lies above, and what it goes up to; None where it is open."""
        ends = [None if math.isinf(limit) else limit for limit in self.limits]
        return list(zip([None, *ends[:-1]], ends, strict=True))


AXES = (
    Axis("scale", (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)),
    Axis("spacing", (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, math.inf)),
    Axis("class_frequency", (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0)),
)


def bin_name(axis: str, entry: Mapping[str, Any]) -> str:
    """Return the ends of a bin of `failure_analysis` as one reads them; frequencies in per cent."""
    factor = 100 if axis == "class_frequency" else 1
    above, up_to = (None if edge is None else f"{factor * edge:g}" for edge in (entry["above"], entry["up_to"]))
    if above is None:
        return "0" if up_to == "0" else f"to {up_to}"
    return f"above {above}" if up_to is None else f"{above}-{up_to}"


def object_scale(boxes: Sequence[Box], width: float, height: float) -> float:
    """Return the mean of √(area of a box / area of the picture)."""
    return float(np.mean([math.sqrt(box.area / (width * height)) for box in boxes]))


def object_spacing(boxes: Sequence[Box]) -> float:
    """Return the smallest gap of two boxes over the mean of the square roots of their areas; NaN below two boxes."""
    return min((_gap(a, b) / (0.5 * (a.area**0.5 + b.area**0.5)) for a, b in combinations(boxes, 2)), default=math.nan)


def failure_analysis(
    truth: Truth, rows: Sequence[Result], pointing: PointingAccuracy, frequencies: Sequence[float | None]
) -> dict[str, Any]:
    """Measure one mode by the axes of this module.

    Parameters
    ----------
    truth, rows
        The images and one row each. Images without objects and rows without a count take no part; neither do, in scale
        and spacing, images whose boxes are not as many as their count says.
    pointing
        That of the same images and rows.
    frequencies
        Share of each image's class among those that its counter was fitted on, None where it is not known.

    Returns
    -------
    dict
        JSON-ready. By axis the ``"bins"`` that hold images: ``"above"`` and ``"up_to"`` (None where open),
        ``"images"``, ``"pointing_images"``, and of each of `FIGURES` the value, ``…_interval`` (95 %: Wilson's; for
        pointing a bootstrap over at least `FEWEST_SHOWN` images) and ``…_expected``. ``"classes"`` has the same by
        ``"class"``, for classes of at least `FEWEST_SHOWN` images, the most common first, with their mean
        ``"frequency"``.
    """
    images, labels = truth.images, truth.labels
    places = [place for place, (image, row) in enumerate(zip(images, rows, strict=True)) if image.count and row.ok]
    true = label_indices([images[place].count or 0 for place in places], labels)
    found = label_indices([rows[place].count or 0 for place in places], labels)
    columns = np.zeros((len(images), 6))
    columns[places, :4] = np.column_stack([found == true, found < true, found > true, np.ones(len(places))])
    columns[pointing.places, 4] = pointing.contained[:, _POINTING_RATIO]
    columns[pointing.places, 5] = pointing.due
    columns = columns[places]
    measured = _Measured(columns, truth.seed)
    boxes = [_boxes(images[place], rows[place], labels) for place in places]
    values = {
        "scale": [object_scale(*framed) if framed else math.nan for framed in boxes],
        "spacing": [object_spacing(framed[0]) if framed else math.nan for framed in boxes],
        "class_frequency": [math.nan if (share := frequencies[place]) is None else share for place in places],
    }
    arrays = {name: np.array(column) for name, column in values.items()}
    likes = {"spacing": true * _THIRDS + _third(arrays["scale"], ~np.isnan(arrays["spacing"]))}
    return {
        **{axis.name: {"bins": measured.bins(axis, arrays[axis.name], likes.get(axis.name, true))} for axis in AXES},
        "classes": measured.classes(
            [images[place].class_name for place in places],
            arrays["class_frequency"],
            true,
        ),
    }


def _boxes(image: LabelledImage, row: Result, labels: tuple[str, ...]) -> tuple[tuple[Box, ...], int, int] | None:
    """Return the boxes that are counted, and width and height; None where they do not fit the count."""
    assert image.count is not None
    if row.width is None or row.height is None:
        return None
    boxes, _, _ = clip_to_frame(image.counted_boxes, row.width, row.height)
    fits = boxes and count_label(len(boxes), labels) == count_label(image.count, labels)
    return (boxes, row.width, row.height) if fits else None


def _third(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return for each value the third, 0 to 2, that it falls into of those that are ``chosen``."""
    if not chosen.any():
        return np.zeros(len(values), np.int64)
    limits = np.quantile(values[chosen], [1 / _THIRDS, 2 / _THIRDS])
    return np.asarray(np.searchsorted(limits, np.nan_to_num(values)))


def _gap(a: Box, b: Box) -> float:
    across = max(a.x0 - b.x1, b.x0 - a.x1, 0.0)
    down = max(a.y0 - b.y1, b.y0 - a.y1, 0.0)
    return math.hypot(across, down)


@dataclass(frozen=True, eq=False)
class _Measured:
    """What is summed up of each image, (n, 6)."""

    columns: np.ndarray
    seed: int

    def bins(self, axis: Axis, values: np.ndarray, kinds: np.ndarray) -> list[dict[str, Any]]:
        """Return the figures of each bin that holds images; those whose value is NaN take no part.

        What is expected of an image is what those of its kind, (n,) integers, are like.
        """
        known = ~np.isnan(values)
        expected = self._expected(known, kinds)
        place = np.searchsorted(axis.limits, values)  # NaN comes last
        found = []
        for number, (above, up_to) in enumerate(axis.bins):
            inside = known & (place == number)
            if inside.any():
                found.append({"above": above, "up_to": up_to, **self._figures(inside, expected)})
        return found

    def classes(self, names: Sequence[str | None], frequencies: np.ndarray, kinds: np.ndarray) -> list[dict[str, Any]]:
        """Return the figures of each class that is not rare."""
        of_image = np.array([name or "" for name in names])
        expected = self._expected(np.array([name is not None for name in names], bool), kinds)
        found = []
        for name, number in Counter(name for name in names if name is not None).most_common():
            if number >= FEWEST_SHOWN:
                inside = of_image == name
                frequency = float(np.mean(frequencies[inside]))
                known = None if math.isnan(frequency) else frequency
                found.append({"class": name, "frequency": known, **self._figures(inside, expected)})
        return found

    def _expected(self, chosen: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """Return for each image the `FIGURES` of all ``chosen`` images of its kind, (n, 4)."""
        shares = np.zeros((len(self.columns), len(FIGURES)))
        for kind in np.unique(kinds[chosen]):
            sums = self.columns[chosen & (kinds == kind)].sum(axis=0)
            of_kind = [share_of(sums[part], sums[whole]) for part, whole in _SHARES.values()]
            shares[kinds == kind] = np.nan_to_num(np.array(of_kind))
        return shares

    def _figures(self, inside: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
        columns = self.columns[inside]
        sums = columns.sum(axis=0)
        pointed = int((columns[:, 5] > 0).sum())
        figures: dict[str, Any] = {"images": len(columns), "pointing_images": pointed}
        for number, (name, (part, whole)) in enumerate(_SHARES.items()):
            known = sums[whole] > 0
            weighed = float((expected[inside, number] * columns[:, whole]).sum())
            figures[name] = float(sums[part] / sums[whole]) if known else None
            interval = (
                self._resampled(columns[:, [part, whole]], pointed)
                if name == "pointing"
                else wilson_interval(float(sums[part]) / len(columns), len(columns))
            )
            figures[f"{name}_interval"] = as_json(interval)
            figures[f"{name}_expected"] = weighed / float(sums[whole]) if known else None
        return figures

    def _resampled(self, columns: np.ndarray, images: int) -> tuple[float, float] | None:
        """Return the interval of a share of pointers, of which an image may have several; None for a few images.

        Where all are right, or none is, it is Wilson's, with each image counted once: its pointers may fail together.
        """
        if images < FEWEST_SHOWN:
            return None
        draws = resampled_sums(columns, self.seed)
        right, due = columns.sum(axis=0)
        return percentile_interval(share_of(draws[:, 0], draws[:, 1]), wilson_interval(float(right / due), images))
