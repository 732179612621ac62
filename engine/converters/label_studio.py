"""Label Studio: tasks with predictions in ``tasks.json``; ``interface.xml`` is the labelling interface that fits them.

Ellipses are key points at their centres, boxes rectangles, in per cent of the picture; the count is a number of its
own, to be corrected like the rest.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, indent, tostring

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import ConversionSettings, DatasetFormat
from pc_engine.converters.pictures import Picture, Survey
from pc_engine.converters.xml_text import add_element
from pc_engine.decoding.browser_formats import is_shown
from pc_engine.pointers import EllipsePointer, Pointer
from pc_engine.sources.stored_names import original_name

TASKS_FILE = "tasks.json"
INTERFACE_FILE = "interface.xml"
LOCAL_STORAGE = "/data/local-files/?d="
# URLs that Label Studio opens itself, or through a storage that is connected to the project.
_REMOTE = ("http://", "https://", "s3://", "gs://", "azure-blob://")
# Size of a key point, in per cent of the picture's width.
_POINT_WIDTH = 0.75


class _LabelStudioWriter:
    """Writes a task for each image as it comes."""

    def __init__(self, folder: DataFolder, survey: Survey, settings: ConversionSettings) -> None:
        folder.open(INTERFACE_FILE).write(_interface(survey))
        self._root = _ended(settings.image_root)
        self._stream = folder.open(TASKS_FILE)
        self._stream.write("[")
        self._tasks = self._hidden = 0

    def add(self, picture: Picture) -> str | None:
        self._stream.write(",\n" if self._tasks else "\n")
        self._tasks += 1
        self._hidden += not is_shown(picture.name)
        result = picture.result
        regions = [_region(picture, number, pointer) for number, pointer in enumerate(result.pointers)]
        prediction: dict[str, Any] = {
            "model_version": f"{result.model} {result.mode}" + (" reviewed" if picture.reviewed else ""),
            "result": [{**_region_head("count", "number", "count"), "value": {"number": result.count}}, *regions],
        }
        if result.class_score is not None:
            prediction["score"] = round(result.class_score, 6)
        data = {"image": self._url(picture), "path": result.path}
        self._stream.write(json.dumps({"data": data, "predictions": [prediction]}))
        return None

    def finish(self) -> str | None:
        self._stream.write("\n]\n")
        if not self._hidden:
            return None
        return (
            f"{self._hidden:,} of {self._tasks:,} photos are in formats that most browsers, and so Label Studio, "
            "cannot show, such as HEIC and TIFF: convert them to JPEG, and run on those."
        )

    def _url(self, picture: Picture) -> str:
        path = picture.result.path
        if self._root is None and path.startswith(_REMOTE) and "::" not in path:
            return path
        root = LOCAL_STORAGE if self._root is None else self._root
        return root + quote(original_name(picture.name), errors="surrogateescape")


def _ended(root: str | None) -> str | None:
    """Return a root that a name can follow: a folder as people write it has no slash at its end."""
    return f"{root}/" if root and not root.endswith(("/", "=")) else root


def _region_head(name: str, kind: str, identity: str) -> dict[str, Any]:
    return {"id": identity, "from_name": name, "to_name": "image", "type": kind}


def _region(picture: Picture, number: int, pointer: Pointer) -> dict[str, Any]:
    width, height = picture.size
    if isinstance(pointer, EllipsePointer):
        name, kind = "point", "keypointlabels"
        x, y = picture.point(pointer)
        place = {"x": _per_cent(x, width), "y": _per_cent(y, height), "width": _POINT_WIDTH}
    else:
        name, kind = "box", "rectanglelabels"
        x0, y0, x1, y1 = picture.box(pointer)
        place = {
            "x": _per_cent(x0, width),
            "y": _per_cent(y0, height),
            "width": _per_cent(x1 - x0, width),
            "height": _per_cent(y1 - y0, height),
            "rotation": 0,
        }
    return {
        **_region_head(name, kind, f"pointer{number}"),
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**place, kind: [picture.label(pointer)]},
        "score": round(pointer.score, 6),
    }


def _per_cent(part: float, whole: int) -> float:
    return round(100 * part / whole, 5)


def _interface(survey: Survey) -> str:
    view = Element("View")
    add_element(view, "Image", name="image", value="$image")
    for wanted, tag, name in (
        (survey.has_ellipses, "KeyPointLabels", "point"),
        (survey.has_boxes or not survey.has_ellipses, "RectangleLabels", "box"),
    ):
        if wanted:
            labels = add_element(view, tag, name=name, toName="image")
            for category in survey.categories:
                add_element(labels, "Label", value=category)
    add_element(view, "Header", value="Number of objects")
    add_element(view, "Number", name="count", toName="image", min=0)
    indent(view)
    return tostring(view, encoding="unicode") + "\n"


FORMAT = DatasetFormat("label-studio", _LabelStudioWriter, makes=(TASKS_FILE, INTERFACE_FILE))
