"""COCO "instances" JSON: boxes of many classes; the dominant class of an image is counted.

The dominant class has the largest summed box area (crowd regions do not take part), as in the folders with
``labels.json``. An annotation without a box has that around its outlines. An image without annotations counts 0
objects. Where the dominant class also has a crowd region its number of objects is not known: the image keeps its class
and boxes, and has no count. A crowd region without a box may be anywhere in its picture. An image whose ``reviewed`` is
false, as ``pc-engine convert --to coco`` writes it, was counted by a run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.datasets.records import (
    Box,
    LabelledImage,
    LabelledSet,
    LabelledSetBuilder,
    beside,
    image_of_boxes,
    is_file,
    read_json,
)
from pc_engine.errors import DataError
from pc_engine.shown_text import number_of


def read_coco(path: Path, images: Path | None = None) -> LabelledSet:
    """Read a COCO instances file.

    Parameters
    ----------
    path
        The JSON file.
    images
        Folder of the images; looked for near the file where None (see :func:`parse_coco`).

    Raises
    ------
    DataError
        If the file is absent or of another form, the images are not found, or it gives no image.
    """
    if not is_file(path):
        raise DataError(f"There is no file {path}: name a COCO instances JSON, as coco:FILE or coco:FILE@IMAGES_DIR.")
    return parse_coco(read_json(path), path, images)


def is_coco(raw: Any) -> bool:
    """Whether JSON contents have the three lists of a COCO file."""
    return isinstance(raw, dict) and all(isinstance(raw.get(k), list) for k in ("images", "annotations", "categories"))


def parse_coco(raw: Any, path: Path, images: Path | None = None) -> LabelledSet:
    """Read the contents of the COCO file at ``path``; see :func:`read_coco`.

    Where ``images`` is None the images are looked for beside the file, in ``images/`` or ``img/`` there, and in the
    folder that COCO's own layout has for it: ``val2017/`` for ``annotations/instances_val2017.json``.
    """
    if not is_coco(raw):
        raise DataError(f"{path} lacks the lists images, annotations and categories of a COCO instances file.")
    names = {_key(item, "id"): str(item.get("name")) for item in raw["categories"] if isinstance(item, Mapping)}
    annotations = defaultdict(list)
    for item in raw["annotations"]:
        if isinstance(item, Mapping):
            annotations[_key(item, "image_id")].append(item)
    files_of = defaultdict(set)
    for item in raw["images"]:
        if isinstance(item, Mapping):
            files_of[_key(item, "id")].add(str(item.get("file_name")))
    files = list(dict.fromkeys(chain.from_iterable(files_of.values())))
    folder = images if images is not None else _images_folder(path, files)
    builder = LabelledSetBuilder(path.stem, path)
    if strayed := sum(len(annotations[key]) for key in annotations.keys() - files_of.keys()):
        if annotations.keys().isdisjoint(files_of) and not {*map(str, annotations)}.isdisjoint(map(str, files_of)):
            raise DataError(
                f"None of the {strayed} annotations of {path} has the id of one of its images: write 'image_id' as the "
                f"images' 'id', both as numbers or both as text."
            )
        builder.skip(number_of(strayed, "annotation"), "no image has the id that they name")
    for item in raw["images"]:
        if not isinstance(item, Mapping) or not item.get("file_name"):
            builder.skip(f"image {item!r:.60}", "it has no file_name")
            continue
        try:
            key = _key(item, "id")
            if len(files_of[key]) > 1:
                raise ValueError(f"other images have its id {key!r:.60}, too, so it is not known what it shows")
            image = _image(beside(folder, str(item["file_name"])), annotations.get(key, []), names, builder)
            builder.add(image, by_run=item.get("reviewed") is False)
        except ValueError as error:
            builder.skip(str(item["file_name"]), str(error))
    return builder.build()


def _image(
    path: Path, annotations: list[Mapping[str, Any]], names: Mapping[Any, str], builder: LabelledSetBuilder
) -> LabelledImage:
    unknown = {_key(item, "category_id") for item in annotations} - set(names)
    if unknown:
        raise ValueError(f"its category {next(iter(unknown))!r:.60} is not among the categories")
    named = [(item, names[_key(item, "category_id")]) for item in annotations]
    boxes = builder.boxes(path, ((_xywh(item), name) for item, name in named if not item.get("iscrowd")))
    crowds = [(item, name) for item, name in named if item.get("iscrowd")]
    marked = builder.boxes(path, ((_xywh(item), name) for item, name in crowds if _marks_box(item)))
    unmarked = (Box(0.0, 0.0, math.inf, math.inf, name) for item, name in crowds if not _marks_box(item))
    return image_of_boxes(path, boxes, (*marked, *unmarked), {name for _, name in crowds})


def _marks_box(item: Mapping[str, Any]) -> bool:
    """Whether an annotation has a box or outlines, right or wrong; RLE is neither."""
    return bool(item.get("bbox") or (item.get("segmentation") and not isinstance(item["segmentation"], Mapping)))


def _xywh(item: Mapping[str, Any]) -> Any:
    """Return the box of an annotation, or that around its outlines where it has none."""
    outlines = item.get("segmentation")
    if not item.get("bbox") and isinstance(outlines, Mapping):
        raise ValueError(
            "an annotation has no bbox, and boxes are not read from RLE: add bbox, as by mask.toBbox of pycocotools"
        )
    if item.get("bbox") or not outlines or not isinstance(outlines, list):
        return item.get("bbox")
    try:
        corners = np.concatenate([np.asarray(outline, np.float64).reshape(-1, 2) for outline in outlines])
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its segmentation {outlines!r:.60} is not a list of outlines x y x y ...") from None
    low, high = corners.min(axis=0), corners.max(axis=0)
    return [*low, *(high - low)]


def _key(item: Mapping[str, Any], name: str) -> int | float | str | None:
    """Return the identity that an entry gives under ``name``: a number or a text; None for anything else."""
    value = item.get(name)
    return value if isinstance(value, int | float | str) else None


def _images_folder(path: Path, files: list[str]) -> Path:
    # Each once: of a file in the current folder the one above it is that, too.
    candidates = list(dict.fromkeys(_candidate_folders(path)))
    for folder in candidates:
        if any(is_file(beside(folder, file)) for file in files[:100]):
            return folder
    raise DataError(
        f"The images of {path} are in none of {', '.join(map(str, candidates))}: name their folder as "
        f"coco:{path}@IMAGES_DIR."
    )


def _candidate_folders(path: Path) -> Iterator[Path]:
    split = path.stem.removeprefix("instances_")
    for root in (path.parent, path.parent.parent):
        yield from (root, root / "images", root / "img", root / split, root / "images" / split)
