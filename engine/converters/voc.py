"""Pascal VOC: an XML file for each image below ``Annotations/``, and the list of all in ``ImageSets/Main/``.

Objects are boxes, with the centre as a ``point`` where the pointer is an ellipse. As in the devkit of the challenge,
pixels are numbered from 1 and the last one belongs to the box; numbers have decimals, and no box is narrower than a
pixel. Scores stand in ``attributes``, as CVAT writes them. That a run counted stands in the ``source``, and whether
anybody reviewed it.
"""

from __future__ import annotations

from pathlib import PurePath
from xml.etree.ElementTree import Element, indent, tostring

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import LINE_BREAK, NAME_TAKEN, ConversionSettings, DatasetFormat
from pc_engine.converters.naming import has_line_break, label_file
from pc_engine.converters.pictures import Picture, Survey
from pc_engine.converters.xml_text import add_element
from pc_engine.pointers import EllipsePointer, Pointer

ANNOTATIONS = PurePath("Annotations")
LIST_FILE = PurePath("ImageSets/Main/default.txt")


class _VocWriter:
    """Writes each image's file as it comes."""

    def __init__(self, folder: DataFolder, _survey: Survey, _settings: ConversionSettings) -> None:
        self._folder = folder
        (folder.path / ANNOTATIONS).mkdir()
        self._list = folder.open(LIST_FILE)

    def add(self, picture: Picture) -> str | None:
        if has_line_break(picture.name):
            return LINE_BREAK
        relative = label_file(picture.place, ".xml")
        annotations = self._folder.create(ANNOTATIONS / relative)
        if annotations is None:
            return NAME_TAKEN
        root = _annotation(picture)
        indent(root)
        with annotations:
            annotations.write(tostring(root, encoding="unicode") + "\n")
        self._list.write(f"{relative.with_suffix('').as_posix()}\n")
        return None

    def finish(self) -> None:
        """Every file was written with its image."""


def _annotation(picture: Picture) -> Element:
    root = Element("annotation")
    folder, _, file = picture.name.rpartition("/")
    add_element(root, "folder", folder)
    add_element(root, "filename", file)
    add_element(root, "path", picture.result.path)
    source = add_element(root, "source")
    add_element(source, "database", "Unknown")
    by = f"pc-engine {picture.result.model} {picture.result.mode}"
    add_element(source, "annotation", by + (" reviewed" if picture.reviewed else ""))
    size = add_element(root, "size")
    for name, value in zip(("width", "height", "depth"), (*picture.size, 3), strict=True):
        add_element(size, name, value)
    add_element(root, "segmented", 0)
    for pointer in picture.result.pointers:
        _add_object(root, picture, pointer)
    return root


def _add_object(root: Element, picture: Picture, pointer: Pointer) -> None:
    item = add_element(root, "object")
    add_element(item, "name", picture.label(pointer))
    add_element(item, "pose", "Unspecified")
    for name in ("truncated", "difficult", "occluded"):
        add_element(item, name, 0)
    box = add_element(item, "bndbox")
    x0, y0, x1, y1 = picture.box(pointer)
    for name, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", max(x1, x0 + 1)), ("ymax", max(y1, y0 + 1))):
        add_element(box, name, f"{value:.2f}")
    if isinstance(pointer, EllipsePointer):
        point = add_element(item, "point")
        for name, value in zip(("x", "y"), picture.point(pointer), strict=True):
            # A position and not a number of a pixel: the middle of the first one is 1.
            add_element(point, name, f"{value + 0.5:.2f}")
    attribute = add_element(add_element(item, "attributes"), "attribute")
    add_element(attribute, "name", "score")
    add_element(attribute, "value", round(pointer.score, 6))


FORMAT = DatasetFormat("voc", _VocWriter, makes=(ANNOTATIONS.name, LIST_FILE.parts[0]))
