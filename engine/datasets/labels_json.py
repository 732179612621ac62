"""A folder with ``labels.json``: boxes, dominant class and count of each image, as MNIST-LEGO writes it.

::

    {"set": "fruit", "images": [{"file": "img/1.jpg", "dominant": "apple", "count": 2,
                                 "boxes": [{"c": "apple", "b": [x, y, width, height], "crowd": 0}, …]}, …]}

``count`` and ``dominant`` may be left out where there are boxes, both or one: the class of the largest summed area is
dominant, and the boxes of the dominant class are counted; where that has a crowd region, too, the number is not known,
as for COCO. ``crowd`` and ``class_id`` may be left out, and so may ``group``, which images that show parts of the same
photos have in common (see ``pc-engine collage``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pc_engine.datasets.records import LabelledImage, LabelledSet, LabelledSetBuilder, beside, image_of_boxes, read_json
from pc_engine.errors import DataError
from pc_engine.files.text_values import parse_class_id, parse_count

LABELS_JSON = "labels.json"
#: What it looks like, for whoever writes one.
FORM = '{"images": [{"file": "1.jpg", "count": 1, "boxes": [{"c": "apple", "b": [x, y, width, height]}]}, ...]}'


def read_labels_json(path: Path) -> LabelledSet:
    """Read a ``labels.json``; its files are relative to its folder.

    Raises
    ------
    DataError
        If it is not of this form, or gives no image.
    """
    return parse_labels(read_json(path), path)


def parse_labels(raw: Any, path: Path) -> LabelledSet:
    """Read the contents of the ``labels.json`` at ``path``; see :func:`read_labels_json`."""
    if not isinstance(raw, dict) or not isinstance(raw.get("images"), list):
        raise DataError(f"{path} has no list 'images', so it is not a labels.json: write it as {FORM}.")
    builder = LabelledSetBuilder(str(raw.get("set") or path.parent.name), path)
    for number, entry in enumerate(raw["images"]):
        try:
            builder.add(_image(entry, path.parent, builder))
        except ValueError as error:
            name = entry.get("file") if isinstance(entry, dict) else None
            builder.skip(str(name or f"images[{number}]"), str(error))
    return builder.build()


def _image(entry: Any, folder: Path, builder: LabelledSetBuilder) -> LabelledImage:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
        raise ValueError("it is not an object with a 'file'")  # noqa: TRY004 (one bad entry of the data)
    objects = entry.get("boxes", [])
    if not isinstance(objects, list) or not all(isinstance(item, Mapping) for item in objects):
        raise ValueError("its 'boxes' is not a list of objects")
    boxes, crowds = (
        builder.boxes(
            entry["file"], ((item.get("b"), item.get("c")) for item in objects if bool(item.get("crowd")) is crowd)
        )
        for crowd in (False, True)
    )
    dominant, group = (None if (value := entry.get(name)) is None else str(value) for name in ("dominant", "group"))
    count = parse_count(entry.get("count"))
    image = image_of_boxes(beside(folder, entry["file"]), boxes, crowds, {box.class_name for box in crowds}, dominant)
    return replace(
        image,
        # A dominant class that no box has says nothing of the number.
        count=image.count or None if count is None else count,
        class_name=dominant if count == 0 else image.class_name,
        class_id=parse_class_id(entry.get("class_id")),
        group=group,
    )
