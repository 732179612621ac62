"""YOLO as Ultralytics reads it: ``data.yaml``, ``images.txt`` and a text file for each image below ``labels/``.

A line is ``class cx cy w h`` in shares of the picture. If there are ellipses, the data set is one of poses with a
single keypoint, and ``px py visibility`` of their centres follow. Scores and counts have no place in it. The images are
where they were: ``images`` is a symbolic link to their folder, where that is one of this machine's. Those that are not
found through it stay in the list, and their number is said, as is that of formats that not every trainer reads.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import PurePath

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import LINE_BREAK, NAME_TAKEN, NOT_UTF8, ConversionSettings, DatasetFormat
from pc_engine.converters.naming import has_line_break, label_file
from pc_engine.converters.pictures import Picture, Survey
from pc_engine.errors import system_reason
from pc_engine.pointers import EllipsePointer, Pointer
from pc_engine.sources.stored_names import original_name

DATA_FILE = "data.yaml"
LIST_FILE = "images.txt"
IMAGES = "images"
LABELS = PurePath("labels")
# Left beside the labels, or a folder of them, by whoever read them with Ultralytics.
_CACHED = ".cache"
# Endings that all trainers read. What has another is left out without a word, but for AVIF and HEIC by new ones.
_READ = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"})
_VISIBLE, _ABSENT = 2, 0
# What YAML refuses in a text, or takes for a line break or a mark of the byte order.
_NOT_YAML = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_HIDDEN = (
    f"cannot have a label file where training looks, beside the last folder named '{IMAGES}' of a path: run and "
    "convert that folder on its own"
)


class _YoloWriter:
    """Writes each image's file as it comes."""

    def __init__(self, folder: DataFolder, survey: Survey, _settings: ConversionSettings) -> None:
        self._folder = folder
        self._has_keypoints = survey.has_ellipses
        (folder.path / LABELS).mkdir()
        folder.open(DATA_FILE).write(_data_yaml(survey))
        self._list = folder.open(LIST_FILE)
        self._listed = self._absent = self._unread = 0
        self._unlinked: str | None = None
        if survey.local_folder is not None:
            try:
                (folder.path / IMAGES).symlink_to(survey.local_folder, target_is_directory=True)
            except OSError as error:  # Windows lets administrators make links, and others in its developer mode
                self._unlinked = f"{survey.local_folder} ({system_reason(error)})"

    def add(self, picture: Picture) -> str | None:
        if has_line_break(picture.name):
            return LINE_BREAK
        if IMAGES in picture.place[:-1]:
            return _HIDDEN
        is_there = self._leads_to(picture.name)
        if not is_there and self._leads_to(original_name(picture.name)):
            return NOT_UTF8
        labels = self._folder.create(LABELS / label_file(picture.place, ".txt"))
        if labels is None:
            return NAME_TAKEN
        with labels:
            labels.writelines(self._line(picture, pointer) for pointer in picture.result.pointers)
        self._listed += 1
        self._absent += not is_there
        self._unread += is_there and PurePath(picture.name).suffix.lower() not in _READ
        self._list.write(f"./{IMAGES}/{picture.name}\n")
        return None

    def finish(self) -> str | None:
        """Say what trainers will not find or leave out: every file was written with its image."""
        remarks = []
        if self._unlinked is not None:
            remarks.append(
                f"No link can be made to {self._unlinked}: copy the photos to {IMAGES}/ in the data set, or convert "
                f"again where links are allowed, as in Windows' developer mode."
            )
        elif self._absent:
            remarks.append(
                f"{self._absent:,} of {self._listed:,} images of the list do not exist: say where the photos are with "
                f"--photos DIR, or copy them to {IMAGES}/ in the data set."
            )
        if self._unread:
            remarks.append(
                f"{self._unread:,} of {self._listed:,} images have file endings that many trainers skip, such as those "
                f"of HEIC, AVIF and GIF: convert them to JPEG, and run on those."
            )
        return " ".join(remarks) or None

    def _leads_to(self, name: str) -> bool:
        return os.path.exists(self._folder.path / IMAGES / name)

    def _line(self, picture: Picture, pointer: Pointer) -> str:
        width, height = picture.size
        x0, y0, x1, y1 = picture.box(pointer)
        numbers = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
        text = f"{picture.category(pointer)} " + " ".join(f"{number:.7f}" for number in numbers)
        if not self._has_keypoints:
            return text + "\n"
        if not isinstance(pointer, EllipsePointer):
            return f"{text} 0 0 {_ABSENT}\n"
        x, y = picture.point(pointer)
        return f"{text} {x / width:.7f} {y / height:.7f} {_VISIBLE}\n"


def _data_yaml(survey: Survey) -> str:
    """Return the description of the data set; a text in JSON is one in YAML, but for a few letters to be escaped."""
    lines = [f"train: {LIST_FILE}", f"val: {LIST_FILE}", f"nc: {len(survey.categories)}"]
    if survey.has_ellipses:
        lines += ["kpt_shape: [1, 3]", "flip_idx: [0]"]
    lines += ["names:", *(f"  {k}: {_quoted(name)}" for k, name in enumerate(survey.categories))]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    text = json.dumps(name, ensure_ascii=False)
    return _NOT_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


FORMAT = DatasetFormat(
    "yolo",
    _YoloWriter,
    makes=(DATA_FILE, LIST_FILE, LABELS.name, IMAGES, f"{LABELS}{_CACHED}"),
    links=(IMAGES,),
    cached=_CACHED,
)
