"""Labelled images that are made: objects that find room, and a folder of PNGs with ``labels.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from pc_engine.datasets.labels_json import LABELS_JSON
from pc_engine.errors import UsageError
from pc_engine.files.durable import write_json
from pc_engine.files.out_folder import make_folder

_Shapes = TypeVar("_Shapes")
_Places = TypeVar("_Places")

#: Side in pixels of the largest pictures: what is drawn in them takes a gigabyte there.
LARGEST_PICTURE = 4096

# Side of the square that an object of the smallest size, 3 pixels, needs to find a place by chance.
_LEAST_ROOM = 6
# Layouts tried at one scale before all objects of the image shrink a little.
_LAYOUTS_PER_SCALE = 12
_SHRINK = 0.94
# An object counts under ``count_ge1pct`` from this share of the image's area.
_ONE_PERCENT = 0.01


def check_room(objects: int, size: int) -> None:
    """Raise UsageError unless so many objects find room in a square of ``size`` pixels once they are small enough."""
    if objects * _LEAST_ROOM**2 > size**2:
        raise UsageError(
            f"{objects:,} objects do not fit into a picture of {size:,} pixels: lower --max-count to "
            f"{size**2 // _LEAST_ROOM**2:,}, or make it larger with --size."
        )


def lay_out(
    scale: float,
    gap: float,
    shapes_at: Callable[[float], _Shapes],
    places_of: Callable[[_Shapes, float], _Places | None],
) -> tuple[_Shapes, _Places]:
    """Return shapes of a scale and places of theirs that keep a gap; both shrink until all find room."""
    while True:
        shapes = shapes_at(scale)
        for _ in range(_LAYOUTS_PER_SCALE):
            places = places_of(shapes, gap)
            if places is not None:
                return shapes, places
        scale *= _SHRINK
        gap *= _SHRINK


def image_record(
    width: int,
    height: int,
    boxes: Sequence[tuple[str | None, tuple[int, int, int, int]]],
    dominant: str | None,
    **more: Any,
) -> dict[str, Any]:
    """Return an image's entry of ``labels.json`` but for its name: boxes are [x, y, width, height] in pixels.

    ``boxes`` are those of all objects with their classes, of which those of the ``dominant`` one are counted; ``more``
    comes before the count.
    """
    areas = [box[2] * box[3] for name, box in boxes if name == dominant]
    return {
        "w": width,
        "h": height,
        "boxes": [{"c": name, "b": list(box)} for name, box in boxes],
        "dominant": dominant,
        **more,
        "count": len(areas),
        "count_ge1pct": sum(area >= _ONE_PERCENT * (width * height) for area in areas),
        "n_classes": len({name for name, _ in boxes}),
        "n_boxes": len(boxes),
        "has_crowd": False,
    }


def write_images(
    directory: Path,
    n: int,
    make: Callable[[int], tuple[Image.Image, dict[str, Any]]],
    *,
    name: str,
    note: str,
    classes: Sequence[str],
    threads: int,
    progress: Callable[[int], None],
) -> Path:
    """Write ``n`` images as ``000000.png`` … and their truth as ``labels.json``; return the path of that.

    ``make`` gives the image of a number and its `image_record`, in so many ``threads``; ``progress`` is called with the
    number of images written so far.
    """
    make_folder(directory)
    digits = max(6, len(str(n - 1)))

    def write(index: int) -> dict[str, Any]:
        file = f"{index:0{digits}d}.png"
        picture, record = make(index)
        picture.save(directory / file, compress_level=6)
        return {"file": file, **record}

    records = []
    with ThreadPoolExecutor(threads) as pool:
        for record in pool.map(write, range(n)):
            records.append(record)
            progress(len(records))
    truth = {"set": name, "note": note, "n": n, "classes": classes, "images": records}
    labels = directory / LABELS_JSON
    write_json(labels, truth)
    return labels
