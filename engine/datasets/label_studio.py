"""Label Studio: tasks as its export "JSON" has them, such as what ``pc-engine convert --to label-studio`` made.

An image shows as many objects as regions are marked on it, of the label of the largest summed area, as for COCO (where
not all regions have an area, of the label that most have), or as the number says that stands beside them. Where the two
differ, what somebody changed holds: it is compared with the prediction that the task came with. Of several annotations
of a task the last one counts; those that were cancelled do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pc_engine.datasets.records import (
    Box,
    LabelledImage,
    LabelledSet,
    LabelledSetBuilder,
    box_around,
    corners_around_ellipse,
    counted_class,
    first_existing,
    if_each_has_one,
    is_file,
    read_json,
)
from pc_engine.errors import DataError
from pc_engine.files.file_address import path_of_address
from pc_engine.files.json_values import is_number
from pc_engine.files.text_values import parse_count
from pc_engine.sources import IMAGE_SUFFIXES

# What marks an object, by its ``type``: alone, where a part of type "labels" and of the same ``id`` has its labels, or
# with "labels" behind it, where its own value has them.
_SHAPES = ("rectangle", "ellipse", "polygon", "keypoint", "brush")
_LABELS = "labels"
_NUMBER = "number"
# What is said of the whole picture, also where its size is noted beside it.
_OF_PICTURES = {_NUMBER, "choices", "datetime", "pairwise", "rating", "relation", "taxonomy", "textarea"}
# Of other parts, one of these says that they mark something on the picture.
_ON_PICTURE, _PLACES = "original_width", {"x", "points", "rle", "vertices", "imageDataURL"}
# Of a task's data: the path of the row that it was made of, and the picture.
_PATH, _IMAGE = "path", "image"
# Storage on the machine of the server has the path in its query.
_LOCAL_STORAGE = re.compile(r"[?&]d=([^&]+)")
# What is uploaded has this put before its name.
_UPLOADED = re.compile(r"[0-9a-f]{8}-")


@dataclass(frozen=True)
class _Said:
    """What an annotation or a prediction says: a number, if any, and the regions, by their labels.

    ``boxes`` are those around the regions in pixels; none where any has not got one, such as a point.
    """

    number: int | None
    labels: tuple[str | None, ...]
    boxes: tuple[Box, ...]

    @property
    def label(self) -> str | None:
        """The label that is counted."""
        return counted_class(self.labels, self.boxes)[0]

    @property
    def marked(self) -> int:
        """How many regions have it."""
        return counted_class(self.labels, self.boxes)[1]


def is_label_studio(raw: Any) -> bool:
    """Whether JSON contents are a list of tasks."""
    return isinstance(raw, list) and bool(raw) and all(isinstance(task, dict) and "data" in task for task in raw)


def read_label_studio(path: Path, images: Path | None = None) -> LabelledSet:
    """Read the tasks that were annotated.

    Parameters
    ----------
    path
        The JSON file.
    images
        The folder below which the images lie; None where they lie as the tasks say, beside the file, or from here on.

    Raises
    ------
    DataError
        If the file is absent or of another form, or gives no image.
    """
    if not is_file(path):
        raise DataError(
            f"There is no file {path}: name a file that Label Studio exported as JSON, as label-studio:FILE."
        )
    return parse_label_studio(read_json(path), path, images)


def parse_label_studio(raw: Any, path: Path, images: Path | None = None) -> LabelledSet:
    """Read the tasks that the file at ``path`` holds; see `read_label_studio`."""
    if not is_label_studio(raw):
        raise DataError(f"{path} is not a list of tasks: export as 'JSON' from Label Studio.")
    builder = LabelledSetBuilder(path.stem, path)
    remedy = f" (if the images are elsewhere: 'label-studio:{path}@IMAGES_DIR')" if images is None else ""
    for place, task in enumerate(raw, start=1):
        item = f"task {task.get('id', place)}"
        try:
            annotation = _last_annotation(task)
            if annotation is None:
                builder.skip(item, "nobody has annotated it")
                continue
            file = _image_file(task["data"], path.parent, images)
            builder.add(_image(file, _said(annotation), _prediction(task)), remedy)
        except ValueError as error:
            builder.skip(item, str(error))
    return builder.build()


def _last_annotation(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    annotations = task.get("annotations")
    if not isinstance(annotations, list):
        raise ValueError("it has no list of annotations")  # noqa: TRY004 (one bad field of the data)
    valid = [one for one in annotations if isinstance(one, Mapping) and not one.get("was_cancelled")]
    # Of equals, such as those without a date, the last one, where max takes the first.
    return max(reversed(valid), key=lambda one: str(one.get("updated_at", "")), default=None)


def _prediction(task: Mapping[str, Any]) -> _Said | None:
    """Return what the task came with; None where the export leaves that out, or it cannot be read."""
    predictions = task.get("predictions")
    first = predictions[0] if isinstance(predictions, list) and predictions else None
    try:
        return _said(first) if isinstance(first, Mapping) else None
    except ValueError:  # of it, the annotation tells nothing
        return None


def _said(annotation: Mapping[str, Any]) -> _Said:
    result = annotation.get("result")
    if not isinstance(result, list):
        raise ValueError("its annotation has no list of results")  # noqa: TRY004 (as above)
    parts = [part for part in result if isinstance(part, Mapping) and isinstance(part.get("value"), Mapping)]
    numbers = [part["value"].get(_NUMBER) for part in parts if part.get("type") == _NUMBER]
    # By their ids: a region may be there twice, as a shape and as a shape with labels.
    regions: dict[str, Mapping[str, Any]] = {}
    labels: dict[str, str | None] = {}
    for place, part in enumerate(parts):
        key = _id(place, part)
        labels[key] = labels.get(key) or _label(part)
        if _shape(part) in _SHAPES:
            regions.setdefault(key, part)
    for place, part in enumerate(parts):
        # What else is said of a region has its place, too.
        if _shape(part) not in _SHAPES and _id(place, part) not in regions and _marks_a_place(part):
            raise ValueError(
                f"a region of it is of the type {part.get('type')!r:.60}, which is not read: mark its objects with "
                f"rectangles, ellipses, polygons, key points or a brush"
            )
    own = tuple(labels[key] for key in regions)
    boxes = if_each_has_one([_box(region, labels[key]) for key, region in regions.items()])
    return _Said(parse_count(numbers[0]) if numbers else None, own, boxes)


def _id(place: int, part: Mapping[str, Any]) -> str:
    """Return what the parts that are about one region have in common; of one without an id, its ``place``."""
    return f"id {part['id']}" if "id" in part else f"place {place}"


def _shape(part: Mapping[str, Any]) -> str:
    return str(part.get("type")).removesuffix(_LABELS)


def _marks_a_place(part: Mapping[str, Any]) -> bool:
    if str(part.get("type")) in _OF_PICTURES:
        return False
    return _ON_PICTURE in part or not _PLACES.isdisjoint(part["value"])


def _label(part: Mapping[str, Any]) -> str | None:
    labels = part["value"].get(part.get("type")) if str(part.get("type")).endswith(_LABELS) else None
    return str(labels[0]) if isinstance(labels, list) and labels else None


def _image(file: Path, said: _Said, before: _Said | None) -> LabelledImage:
    """Return an image by what an annotation says, and what was said before of it."""
    if said.number in (None, said.marked, len(said.labels)):
        count = said.marked if said.number is None else said.number
        return LabelledImage(file, count, said.label, boxes=said.boxes)
    if before is not None and said.number == before.number and said.marked != before.marked:
        return LabelledImage(file, said.marked, said.label, boxes=said.boxes)
    if before is not None and said.number != before.number and said.marked == before.marked:
        # Who corrected the number alone did not look at the regions.
        return LabelledImage(file, said.number, said.label)
    raise ValueError(f"its number is {said.number}, but {said.marked} objects are marked: make them agree")


def _box(region: Mapping[str, Any], label: str | None) -> Box | None:
    if not _has_numbers(region, "original_width", "original_height"):
        return None
    width, height = region["original_width"], region["original_height"]
    return box_around(_corners(_shape(region), region["value"], width / 100, height / 100), label)


def _corners(kind: str, value: Mapping[str, Any], x: float, y: float) -> Iterator[tuple[float, float]]:
    """Yield points that a region's box just holds, in pixels, of which ``x`` and ``y`` are one per cent of the picture.

    There are none of a key point, nor of what a brush has painted.
    """
    if kind == "polygon":
        points = value.get("points")
        for point in points if isinstance(points, list) else ():
            if isinstance(point, list) and len(point) == 2 and all(map(is_number, point)):
                yield point[0] * x, point[1] * y
    elif kind == "rectangle" and _has_numbers(value, "x", "y", "width", "height"):
        angle = math.radians(_turned(value))
        left, top, width, height = value["x"] * x, value["y"] * y, value["width"] * x, value["height"] * y
        for along, down in ((0, 0), (width, 0), (0, height), (width, height)):
            yield (
                left + along * math.cos(angle) - down * math.sin(angle),
                top + along * math.sin(angle) + down * math.cos(angle),
            )
    elif kind == "ellipse" and _has_numbers(value, "x", "y", "radiusX", "radiusY"):
        yield from corners_around_ellipse(
            value["x"] * x, value["y"] * y, value["radiusX"] * x, value["radiusY"] * y, _turned(value)
        )


def _turned(value: Mapping[str, Any]) -> float:
    """Return the angle by which a region is turned, in degrees."""
    turned = value.get("rotation")
    return float(turned) if turned is not None and is_number(turned) else 0.0


def _has_numbers(value: Mapping[str, Any], *names: str) -> bool:
    return all(is_number(value.get(name)) for name in names)


def _image_file(data: Any, folder: Path, images: Path | None) -> Path:
    """Return where the image of a task is, or is to be missed."""
    if not isinstance(data, Mapping):
        raise ValueError("its data is not an object of named values")  # noqa: TRY004 (as above)
    texts = [text for text in (data.get(_PATH), data.get(_IMAGE), *data.values()) if isinstance(text, str)]
    paths = [path for path in map(_path_in, texts) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise ValueError("its data names no image")
    paths += [Path(path.name) for path in paths] + [Path(_UPLOADED.sub("", path.name, count=1)) for path in paths]
    # An absolute path stays as it is, unless it is said where images lie.
    places = [folder / path for path in paths] + paths
    if images is not None:
        places = [images / path.relative_to(path.anchor) for path in paths]
    return first_existing(places) or places[0]


def _path_in(text: str) -> Path:
    """Return the path that an address of Label Studio's or the web's has, or the text itself where it is none."""
    if stored := _LOCAL_STORAGE.search(text):
        return Path(unquote(stored[1]))
    if "://" in text or text.startswith("/data/"):
        return Path(path_of_address(unquote(urlsplit(text).path)))
    return Path(text)
