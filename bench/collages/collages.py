"""Collages: objects cut out of labelled photos by their boxes, pasted apart on pieces of photos that show none.

They show 0 to n real objects at chosen sizes and spacings, which no set of photos does. What to know about them:

- A collage has objects of one class, as the paper counts objects of the image's class: that of an object drawn among
  all that can be cut out, so that a class has a share of the collages like its share of the boxes. Only classes with as
  many objects as a collage may show take part, else large counts would be left to a few classes. Where boxes name no
  class, or none has as many, a collage has objects of any, and all count.
- A counter that is fitted on some collages and judged on others must not find a cut-out again. So the photos are dealt
  out to groups, a collage takes objects and ground from one group alone, and the labels name it: ``evaluate --folds``
  keeps the collages of a group together.
- Pasted rectangles have edges that objects in photos do not have, and on the ground may be what nobody labelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pc_engine.bench.collages.parts import CollageParts, Cut, collage_parts
from pc_engine.bench.made_images import LARGEST_PICTURE, check_room, image_record, lay_out, write_images
from pc_engine.datasets import LabelledSet
from pc_engine.errors import UsageError
from pc_engine.files.out_folder import check_vacant
from pc_engine.hardware.machine import usable_cores
from pc_engine.progress import Progress

# Nothing is enlarged further than this: blur would tell the pasted from the rest, and the near from the far.
_ENLARGED = 2.0
# Relative spread of the sizes within a collage.
_JITTER = 0.12
# Share of the side of its photo's free square that a ground has at least.
_LEAST_GROUND = 0.7


@dataclass(frozen=True)
class CollageSettings:
    """What collages look like; lengths are fractions of the image side.

    Attributes
    ----------
    size
        Side of the square image in pixels.
    max_count
        Counts are uniform over 0..max_count.
    scale
        Range of an object's longer side. One scale is drawn for each collage; where the objects find no room, it and
        the spacing shrink.
    spacing
        Least gap between two objects' boxes.
    groups
        Groups that the photos are dealt out to, which have a like number of collages.
    """

    size: int = 256
    max_count: int = 5
    scale: tuple[float, float] = (0.2, 0.4)
    spacing: float = 0.04
    groups: int = 5

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 32 <= self.size <= LARGEST_PICTURE or not 0 < low <= high <= 1:
            raise UsageError(
                f"Collages of {self.size} pixels with objects of {low:g} to {high:g} of the side cannot be made: use "
                f"32 to {LARGEST_PICTURE:,} pixels, and scales above 0 and up to 1, the smaller one first."
            )
        check_room(self.max_count, self.size)
        if self.max_count < 1 or self.groups < 1 or not 0 <= self.spacing < 1:
            raise UsageError(
                f"Collages of up to {self.max_count} objects in {self.groups} groups with a spacing of "
                f"{self.spacing:g} cannot be made: ask for at least 1 object and 1 group, and a spacing from 0 to "
                f"below 1."
            )


@dataclass(frozen=True)
class Collages:
    """What was made.

    Attributes
    ----------
    labels
        The path of ``labels.json``.
    classes
        The classes that collages have.
    objects, grounds
        Number of objects and of grounds that they were made of.
    unreadable
        The photos that cannot be read, with the reason.
    """

    labels: Path
    classes: tuple[str, ...]
    objects: int
    grounds: int
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Pasted:
    """An object of a collage: what to cut out, whether to mirror it, and where it goes (x, y, width, height)."""

    cut: Cut
    mirrored: bool
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class _Plan:
    """A collage before any photo is read."""

    group: int
    class_name: str | None
    ground: Cut
    mirrored: bool
    pasted: tuple[_Pasted, ...]


def make_collages(
    sets: Sequence[LabelledSet],
    directory: Path,
    n: int,
    seed: int = 0,
    settings: CollageSettings | None = None,
    *,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Collages:
    """Write ``n`` collages as ``000000.png`` … and their truth as ``labels.json``.

    Parameters
    ----------
    sets
        Labelled photos with boxes.
    directory
        Folder to write to; it is created, and may exist only if it is empty.
    n
        Number of collages.
    seed
        The same photos, seed and settings give the same collages.
    settings
        None for the defaults.
    progress
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    UsageError
        If ``n`` is below the number of groups, or the folder is not empty or cannot be written.
    DataError
        If the photos give too few objects or grounds.
    """
    settings = settings or CollageSettings()
    if n < settings.groups:
        raise UsageError(f"{n} collages in {settings.groups} groups were asked for; ask for at least one per group.")
    check_vacant(directory)
    parts, unreadable = collage_parts(
        sets,
        groups=settings.groups,
        per_class=settings.max_count,
        object_side=settings.scale[1] * settings.size / _ENLARGED,
        ground_side=settings.size / _ENLARGED / _LEAST_GROUND,
        seed=seed,
        progress=lambda done, total: progress("photos", done, total),
    )
    classes = sorted({name for of_group in parts for name in of_group.objects if name is not None})

    def make(index: int) -> tuple[Image.Image, dict[str, Any]]:
        plan = _plan(parts, settings, seed, index)
        return _picture(plan, settings.size), _record(plan, settings.size)

    labels = write_images(
        directory,
        n,
        make,
        name="collages",
        note=f"collages of {', '.join(labelled.name for labelled in sets)}, seed {seed}",
        classes=classes,
        threads=usable_cores(),
        progress=lambda done: progress("collages", done, n),
    )
    return Collages(
        labels,
        tuple(classes),
        sum(len(cuts) for of_group in parts for cuts in of_group.objects.values()),
        sum(len(of_group.grounds) for of_group in parts),
        tuple(unreadable),
    )


def _plan(parts: Sequence[CollageParts], settings: CollageSettings, seed: int, index: int) -> _Plan:
    """Draw collage ``index`` of the sequence ``seed``."""
    random = np.random.default_rng([seed, index])
    group = index % len(parts)
    own = parts[group]
    ground = _part_of(own.grounds[int(random.integers(len(own.grounds)))], random)
    mirrored = bool(random.integers(2))
    count = int(random.integers(0, settings.max_count + 1))
    if not count:
        return _Plan(group, None, ground, mirrored, ())
    # A class's share of the collages is its share of the objects.
    names = list(own.objects)
    numbers = np.array([len(own.objects[name]) for name in names])
    class_name = names[int(random.choice(len(names), p=numbers / numbers.sum()))]
    chosen = random.choice(len(own.objects[class_name]), count, replace=False)
    cuts = [own.objects[class_name][int(place)] for place in chosen]
    boxes = _layout(random, [cut.size for cut in cuts], settings)
    pasted = tuple(_Pasted(cut, bool(random.integers(2)), box) for cut, box in zip(cuts, boxes, strict=True))
    return _Plan(group, class_name, ground, mirrored, pasted)


def _part_of(ground: Cut, random: np.random.Generator) -> Cut:
    """Draw a square inside a square."""
    whole = ground.size[0]
    side = math.ceil(whole * random.uniform(_LEAST_GROUND, 1.0))
    x, y = (int(start + random.integers(0, whole - side + 1)) for start in ground.corners[:2])
    return Cut(ground.photo, (x, y, x + side, y + side))


def _layout(
    random: np.random.Generator, sizes: Sequence[tuple[int, int]], settings: CollageSettings
) -> list[tuple[int, int, int, int]]:
    """Draw a size and a place (x, y, width, height) for each object; shrink the scale until all find room."""
    scale = random.uniform(*settings.scale) * settings.size
    gap = settings.spacing * settings.size
    spread = 1 + _JITTER * random.uniform(-1, 1, len(sizes))

    def shapes_at(scale: float) -> list[tuple[int, int]]:
        shapes = []
        for (width, height), factor in zip(sizes, spread, strict=True):
            longer = min(scale * factor, settings.size) / max(width, height)
            shapes.append((max(3, round(width * longer)), max(3, round(height * longer))))
        return shapes

    _, boxes = lay_out(scale, gap, shapes_at, lambda shapes, gap: _places(random, shapes, settings.size, gap))
    return boxes


def _places(
    random: np.random.Generator, shapes: Sequence[tuple[int, int]], size: int, gap: float
) -> list[tuple[int, int, int, int]] | None:
    """Draw for each (width, height) one of all places that keep ``gap`` from those before; None where there is none."""
    placed: list[tuple[int, int, int, int]] = []
    for width, height in shapes:
        free = np.ones((size - height + 1, size - width + 1), bool)
        for px, py, pw, ph in placed:
            left, top = math.floor(px - width - gap) + 1, math.floor(py - height - gap) + 1
            right, bottom = math.ceil(px + pw + gap), math.ceil(py + ph + gap)
            free[max(0, top) : bottom, max(0, left) : right] = False
        corners = np.flatnonzero(free)
        if not len(corners):
            return None
        y, x = divmod(int(corners[random.integers(len(corners))]), free.shape[1])
        placed.append((x, y, width, height))
    return placed


def _picture(plan: _Plan, size: int) -> Image.Image:
    picture = _resized(plan.ground, plan.mirrored, (size, size))
    for pasted in plan.pasted:
        x, y, width, height = pasted.box
        picture.paste(_resized(pasted.cut, pasted.mirrored, (width, height)), (x, y))
    return picture


def _resized(cut: Cut, mirrored: bool, size: tuple[int, int]) -> Image.Image:
    piece = cut.read().resize(size, Image.Resampling.BICUBIC)
    return ImageOps.mirror(piece) if mirrored else piece


def _record(plan: _Plan, size: int) -> dict[str, Any]:
    """Return a collage's entry of ``labels.json``.

    ``group`` is the group of its photos, ``sources`` their names, the ground's first.
    """
    boxes = [(plan.class_name, pasted.box) for pasted in plan.pasted]
    return {
        **image_record(size, size, boxes, plan.class_name),
        "group": str(plan.group),
        "sources": [plan.ground.photo.name, *(pasted.cut.photo.name for pasted in plan.pasted)],
    }
