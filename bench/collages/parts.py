"""What collages are made of: objects cut out of labelled photos by their boxes, and squares of photos without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pc_engine.bench.accuracy.overlap import intersection_areas
from pc_engine.datasets import LabelledImage, LabelledSet, clip_to_frame
from pc_engine.decoding.decode import display_image
from pc_engine.errors import DataError, ImageError
from pc_engine.hardware.machine import usable_cores
from pc_engine.pointers import BoxPointer
from pc_engine.sources import read_file

# Side in pixels of the cells in which a square without objects is looked for.
_CELL = 8
# A cut-out may show another object of its class over this share of its area, and one of another class over that: the
# first would be an object too many, the second only hides some of the one that counts. Where collages have objects of
# any class, all are of one.
_SAME_CLASS, _OTHER_CLASS = 0.1, 0.5
# Longer over shorter side of a cut-out: what is thinner is a sliver at the size of a collage.
_LONGEST = 4.0
_NARROWEST = 16  # pixels


@dataclass(frozen=True)
class Cut:
    """A piece of a photo: its corners (x0, y0, x1, y1) in whole pixels, and the class of the object that it shows."""

    photo: Path
    corners: tuple[int, int, int, int]
    class_name: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        x0, y0, x1, y1 = self.corners
        return x1 - x0, y1 - y0

    def read(self) -> Image.Image:
        """Return the piece, RGB.

        Raises
        ------
        ImageError
            If the photo cannot be read.
        """
        return display_image(read_file(self.photo)).picture.crop(self.corners)


@dataclass(frozen=True)
class CollageParts:
    """Everything that the collages of one group are made of.

    Attributes
    ----------
    objects
        Cut-out objects by the class that a collage of them has; None for collages of any objects.
    grounds
        Squares in which no object is labelled, of photos whose labels say where the objects are.
    """

    objects: dict[str | None, tuple[Cut, ...]]
    grounds: tuple[Cut, ...]


def collage_parts(
    sets: Iterable[LabelledSet],
    *,
    groups: int,
    per_class: int,
    object_side: float,
    ground_side: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[list[CollageParts], list[tuple[str, str]]]:
    """Cut photos up, those of each group by themselves.

    Parameters
    ----------
    sets
        Labelled photos, some with boxes. A photo that several sets name is taken once. One without boxes gives a ground
        where its count is 0.
    groups
        Number of groups that the photos are dealt out to at random: what two groups hold has no photo in common.
    per_class
        Objects that a class needs in a group to take part there. Where no class has as many, or boxes name none, the
        objects of all are taken together, under the class None.
    object_side, ground_side
        Shortest longer side of an object and side of a ground, in pixels of the photo: what is smaller would have to
        be enlarged too far.
    seed
        Of the groups.
    progress
        Called as ``progress(done, photos)``.

    Returns
    -------
    tuple
        The parts of each group, and the photos that cannot be read with the reason.

    Raises
    ------
    DataError
        If no label has a box, or a group has too few objects or no ground.
    """
    photos = list({image.path: image for labelled in sets for image in labelled.images}.values())
    if not any(image.boxes for image in photos):
        raise DataError(f"The labels of these {len(photos)} photos have no boxes to cut objects out with: name others.")
    members = np.random.default_rng([seed, groups]).permutation(len(photos)) % groups
    readable: list[list[tuple[LabelledImage, tuple[int, int]]]] = [[] for _ in range(groups)]
    unreadable = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, (image, group, size) in enumerate(zip(photos, members, pool.map(_size, photos), strict=True), 1):
            progress(done, len(photos))
            if isinstance(size, str):
                unreadable.append((str(image.path), size))
                continue
            readable[group].append((image, size))
    parts = [
        CollageParts(
            _objects(of_group, per_class, object_side),
            tuple(filter(None, (_ground(image, size, ground_side) for image, size in of_group))),
        )
        for of_group in readable
    ]
    for of_group in parts:
        _check(of_group, groups, per_class, object_side, ground_side)
    return parts, unreadable


def _size(image: LabelledImage) -> tuple[int, int] | str:
    """Return width and height of a photo that can be decoded, else the reason why it cannot."""
    try:
        return display_image(read_file(image.path)).picture.size
    except ImageError as error:
        return str(error)


def _objects(
    photos: Sequence[tuple[LabelledImage, tuple[int, int]]], per_class: int, least: float
) -> dict[str | None, tuple[Cut, ...]]:
    """Return the objects of photos with their sizes, by the classes that have as many as ``per_class``; all else."""
    objects = [cut for image, size in photos for cut in _cut_out(image, size, least)]
    numbers = Counter(cut.class_name for cut in objects)
    classes = sorted(name for name, number in numbers.items() if name is not None and number >= per_class)
    if not classes:
        return {None: tuple(cut for image, size in photos for cut in _cut_out(image, size, least, _SAME_CLASS))}
    return {name: tuple(cut for cut in objects if cut.class_name == name) for name in classes}


def _cut_out(
    image: LabelledImage, size: tuple[int, int], least: float, of_another_class: float = _OTHER_CLASS
) -> list[Cut]:
    """Return the objects of a photo that can be cut out without much of another or of a crowd region."""
    boxes, _, _ = clip_to_frame(image.boxes, *size)
    others = (*boxes, *clip_to_frame(image.crowds, *size)[0])
    shared = intersection_areas([BoxPointer(box.x0, box.y0, box.x1, box.y1, 1.0) for box in boxes], others)
    found = []
    for place, box in enumerate(boxes):
        width, height = box.x1 - box.x0, box.y1 - box.y0
        longer, shorter = max(width, height), min(width, height)
        if longer < least or shorter < max(_NARROWEST, longer / _LONGEST):
            continue
        shares = np.delete(shared[place], place) / box.area
        same = np.array([other.class_name == box.class_name for other in others])
        if (shares <= np.where(np.delete(same, place), _SAME_CLASS, of_another_class)).all():
            corners = (round(box.x0), round(box.y0), round(box.x1), round(box.y1))
            found.append(Cut(image.path, corners, box.class_name))
    return found


def _ground(image: LabelledImage, size: tuple[int, int], least: float) -> Cut | None:
    """Return the largest square of a photo that touches no box and no crowd region.

    None where it is too small, or where the labels leave objects without a box: those may be anywhere.
    """
    if _shows_unboxed(image):
        return None
    columns, rows = size[0] // _CELL, size[1] // _CELL
    taken = np.zeros((rows, columns), bool)
    for box in clip_to_frame((*image.boxes, *image.crowds), *size)[0]:
        x0, y0 = (int(edge // _CELL) for edge in (box.x0, box.y0))
        x1, y1 = (int(-(-edge // _CELL)) for edge in (box.x1, box.y1))
        taken[y0:y1, x0:x1] = True
    column, row, side = (_CELL * value for value in _largest_free_square(taken))
    return Cut(image.path, (column, row, column + side, row + side)) if side >= max(least, _CELL) else None


def _shows_unboxed(image: LabelledImage) -> bool:
    """Whether a photo may show objects that no box and no crowd region marks."""
    if image.count is None:
        return not (image.boxes or image.crowds)
    return image.count > len(image.counted_boxes)


def _largest_free_square(taken: np.ndarray) -> tuple[int, int, int]:
    """Return column, row and side of the first of the largest squares of cells (rows, columns) that are not taken.

    A square holds smaller ones, so that its side is found by halving.
    """
    sums = np.pad(taken.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    column = row = fits = 0
    too_large = min(taken.shape) + 1
    while too_large - fits > 1:
        side = (fits + too_large) // 2
        inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        free = np.flatnonzero(inside == 0)
        if len(free):
            (row, column), fits = divmod(int(free[0]), inside.shape[1]), side
        else:
            too_large = side
    return column, row, fits


def _check(parts: CollageParts, groups: int, per_class: int, object_side: float, ground_side: float) -> None:
    most = max(len(cuts) for cuts in parts.objects.values())
    if most < per_class:
        raise DataError(
            f"One of {groups} groups of photos has {most} boxed objects that can be cut out at {object_side:.0f} "
            f"pixels or more, which is too few for collages of {per_class}: name more photos, or lower --groups, "
            f"--max-count, --max-scale or --size."
        )
    if not parts.grounds:
        raise DataError(
            f"One of {groups} groups of photos has no square of {ground_side:.0f} pixels without a boxed object to "
            f"paste on: name more photos, or lower --groups or --size."
        )
