"""COCO: one JSON file. A box pointer is an annotation; an ellipse one with a keypoint at its centre and the box around.

An image's count is a field of its own beside COCO's, as is a pointer's score.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from typing import Any

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import ConversionSettings, DatasetFormat
from pc_engine.converters.pictures import Picture, Survey
from pc_engine.pointers import EllipsePointer, Pointer

FILE = "coco.json"
_MAKER = "Counts and pointers by pc-engine"
# Annotations follow all images in the file; until then they wait here.
_ANNOTATIONS = "annotations.new"
_VISIBLE = 2


class _CocoWriter:
    """Writes images as they come and annotations to a second file, which is then copied behind them."""

    def __init__(self, folder: DataFolder, survey: Survey, _settings: ConversionSettings) -> None:
        self._has_keypoints = survey.has_ellipses
        self._categories = [self._category(index, name) for index, name in enumerate(survey.categories)]
        self._images = folder.open(FILE)
        self._annotations = folder.open(_ANNOTATIONS)
        self._n_images = self._n_annotations = 0
        info = {"description": _MAKER, "version": version("pc-engine")}
        self._images.write(f'{{"info": {json.dumps(info)},\n"licenses": [],\n"images": [')

    def add(self, picture: Picture) -> str | None:
        self._images.write(",\n" if self._n_images else "\n")
        self._n_images += 1
        result = picture.result
        image = {
            "id": self._n_images,
            "file_name": picture.name,
            "width": result.width,
            "height": result.height,
            "count": result.count,
            "count_label": result.count_label,
            "reviewed": picture.reviewed,
        }
        self._images.write(json.dumps(image))
        for pointer in result.pointers:
            self._annotations.write(",\n" if self._n_annotations else "\n")
            self._n_annotations += 1
            self._annotations.write(json.dumps(self._annotation(picture, pointer)))
        return None

    def finish(self) -> None:
        self._images.write('\n],\n"annotations": [')
        self._annotations.seek(0)
        shutil.copyfileobj(self._annotations, self._images)
        self._images.write(f'\n],\n"categories": {json.dumps(self._categories)}}}\n')

    def _annotation(self, picture: Picture, pointer: Pointer) -> dict[str, Any]:
        x0, y0, x1, y1 = picture.box(pointer)
        width, height = round(x1 - x0, 2), round(y1 - y0, 2)
        annotation = {
            "id": self._n_annotations,
            "image_id": self._n_images,
            "category_id": picture.category(pointer) + 1,
            "bbox": [x0, y0, width, height],
            "area": round(width * height, 2),
            "iscrowd": 0,
            "score": round(pointer.score, 6),
        }
        if isinstance(pointer, EllipsePointer):
            annotation |= {"keypoints": [*picture.point(pointer), _VISIBLE], "num_keypoints": 1}
        elif self._has_keypoints:  # where a category has keypoints, all its annotations have to
            annotation |= {"keypoints": [0, 0, 0], "num_keypoints": 0}
        return annotation

    def _category(self, index: int, name: str) -> dict[str, Any]:
        keypoints = {"keypoints": ["point"], "skeleton": []} if self._has_keypoints else {}
        return {"id": index + 1, "name": name, "supercategory": "object", **keypoints}


FORMAT = DatasetFormat(
    "coco", _CocoWriter, makes=(FILE,), is_file=True, begins=f'{{"info": {{"description": "{_MAKER}"'
)
