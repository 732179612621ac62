"""CVAT: "CVAT for images 1.1", one XML file. Ellipses are points at their centres, boxes are boxes; each has its score.

The labels stand in the head as a task has to have them for the import to find them.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, indent, tostring

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import ConversionSettings, DatasetFormat
from pc_engine.converters.pictures import Picture, Survey
from pc_engine.converters.xml_text import add_element, xml_text
from pc_engine.pointers import EllipsePointer, Pointer

FILE = "cvat.xml"
_TASK = "pc-engine"
_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'


class _CvatWriter:
    """Writes an element for each image as it comes."""

    def __init__(self, folder: DataFolder, survey: Survey, _settings: ConversionSettings) -> None:
        self._stream = folder.open(FILE)
        self._images = 0
        self._stream.write(_HEAD)
        self._write(_meta(survey))

    def add(self, picture: Picture) -> str | None:
        width, height = picture.size
        image = Element(
            "image",
            {
                "id": str(self._images),
                "name": xml_text(picture.name),
                "width": str(width),
                "height": str(height),
                # None of CVAT's, which leaves it aside: for those who take the file itself for the truth.
                "reviewed": "yes" if picture.reviewed else "no",
            },
        )
        for pointer in picture.result.pointers:
            _add_shape(image, picture, pointer)
        self._images += 1
        self._write(image)
        return None

    def finish(self) -> None:
        self._stream.write("</annotations>\n")

    def _write(self, element: Element) -> None:
        indent(element, level=1)
        self._stream.write(f"  {tostring(element, encoding='unicode').rstrip()}\n")


def _meta(survey: Survey) -> Element:
    meta = Element("meta")
    task = add_element(meta, "task")
    add_element(task, "name", _TASK)
    add_element(task, "size", survey.rows - survey.failed)
    add_element(task, "mode", "annotation")
    add_element(task, "overlap", 0)
    labels = add_element(task, "labels")
    shapes = {(True, False): "rectangle", (False, True): "points"}.get((survey.has_boxes, survey.has_ellipses), "any")
    for name in survey.categories:
        label = add_element(labels, "label")
        add_element(label, "name", name)
        add_element(label, "type", shapes)
        attribute = add_element(add_element(label, "attributes"), "attribute")
        for key, value in (("name", "score"), ("mutable", "False"), ("input_type", "text"), ("default_value", "")):
            add_element(attribute, key, value)
        add_element(attribute, "values", "")
    return meta


def _add_shape(image: Element, picture: Picture, pointer: Pointer) -> None:
    source = "manual" if picture.reviewed else "auto"
    shared = {"label": picture.label(pointer), "source": source, "occluded": 0, "z_order": 0}
    if isinstance(pointer, EllipsePointer):
        x, y = picture.point(pointer)
        shape = add_element(image, "points", points=f"{x:.2f},{y:.2f}", **shared)
    else:
        corners = zip(("xtl", "ytl", "xbr", "ybr"), picture.box(pointer), strict=True)
        shape = add_element(image, "box", **{name: f"{value:.2f}" for name, value in corners}, **shared)
    add_element(shape, "attribute", f"{pointer.score:.6f}", name="score")


_BEGINS = f"{_HEAD}  <meta>\n    <task>\n      <name>{_TASK}</name>"
FORMAT = DatasetFormat("cvat", _CvatWriter, makes=(FILE,), is_file=True, begins=_BEGINS)
