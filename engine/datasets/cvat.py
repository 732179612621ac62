"""CVAT: "CVAT for images 1.1", such as what ``pc-engine convert --to cvat`` made, or CVAT exports of it.

An image shows as many objects as shapes are marked on it, of the label of the largest summed area, as for COCO (where
points are marked, of the label that most shapes have); a skeleton is one, and so is a shape that is occluded. A shape
of several points may be one object or as many: where there is such a one, the image is left out. An image without
shapes shows no object, as CVAT does not say who looked at it; but one that has a tag, which is of the whole picture,
has that as its class, and no count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element
from zipfile import is_zipfile

from pc_engine.datasets.records import (
    Box,
    LabelledImage,
    LabelledSet,
    LabelledSetBuilder,
    box_around,
    corners_around_ellipse,
    counted_class,
    find_image,
    if_each_has_one,
    is_file,
    read_error,
)
from pc_engine.datasets.xml_children import read_children
from pc_engine.errors import DataError
from pc_engine.files.text_values import parse_number

_ROOT, _IMAGE, _TAG = "annotations", "image", "tag"
# Of an image, whether anybody reviewed what a run found: in files that `pc-engine convert` made, and CVAT did not.
_REVIEWED = "reviewed"
_POINTS, _SKELETON = "points", "skeleton"
_OUTLINES = ("polygon", "polyline", _POINTS)
_SHAPES = (*_OUTLINES, "box", "ellipse", "mask", "cuboid", _SKELETON)
_OTHER_FORMS = {
    "track": "it has tracks, as 'CVAT for video' has them: export as 'CVAT for images 1.1'",
    "annotation": "it is Pascal VOC's file of one image: name the folder of all of them, as voc:DIR",
}
_FOLDER = "images"


def read_cvat(path: Path, images: Path | None = None) -> LabelledSet:
    """Read the images of a file, however many.

    Parameters
    ----------
    path
        The XML file.
    images
        The folder below which the images lie; None where they lie beside the file, in ``images/`` there, as CVAT
        exports them, or from here on.

    Raises
    ------
    DataError
        If the file is absent or of another form, or gives no image.
    """
    if not is_file(path):
        raise DataError(
            f"There is no file {path}: name a file that CVAT exported as 'CVAT for images 1.1', as cvat:FILE."
        )
    if is_zipfile(path):
        raise DataError(f"{path} is an archive: unpack it, and name the annotations.xml in it, as cvat:FILE.")
    folders = [path.parent / _FOLDER, path.parent, Path()] if images is None else [images]
    remedy = f" (if the images are elsewhere: 'cvat:{path}@IMAGES_DIR')" if images is None else ""
    builder = LabelledSetBuilder(path.stem, path)
    try:
        for element in read_children(path, _ROOT, _OTHER_FORMS):
            if element.tag == _IMAGE:
                _add(element, folders, builder, remedy)
    except (OSError, ValueError) as error:
        raise read_error(path, "XML", error) from None
    return builder.build()


def _add(element: Element, folders: list[Path], builder: LabelledSetBuilder, remedy: str) -> None:
    name = element.get("name", "")
    try:
        if not name:
            raise ValueError("it has no name")
        # Of a whole project the images lie in a folder for each subset.
        subset = element.get("subset")
        found = find_image([folders[0] / subset, *folders] if subset else folders, name)
        labelled = _labelled(found or folders[0] / name, element)
        builder.add(labelled, remedy, by_run=element.get(_REVIEWED) == "no")
    except ValueError as error:
        builder.skip(name or f"image {element.get('id')}", str(error))


def _labelled(file: Path, element: Element) -> LabelledImage:
    shapes = [child for child in element if child.tag in _SHAPES]
    tags = {child.get("label") for child in element if child.tag == _TAG}
    if tags and not shapes:
        if len(tags) > 1:
            raise ValueError("it has several tags, and no shapes")
        return LabelledImage(file, class_name=tags.pop())
    boxes = if_each_has_one(list(map(_box, shapes)))
    label, count = counted_class([shape.get("label") for shape in shapes], boxes)
    return LabelledImage(file, count, label, boxes=boxes)


def _box(shape: Element) -> Box | None:
    """Return the box around a shape; None where it has no area, as a point has none."""
    return box_around(_corners(shape), shape.get("label"))


def _corners(shape: Element) -> Iterator[tuple[float, float]]:
    """Yield points that a shape's box just holds."""
    if shape.tag in _OUTLINES:
        points = [_point(text) for text in shape.get("points", "").split(";")]
        if shape.tag == _POINTS and len(points) > 1:
            n = len(points)
            raise ValueError(f"{n} points of it are one shape, and may be one object or {n}: give each object its own")
        yield from points
    elif shape.tag == _SKELETON:
        for part in shape:
            if part.tag in _SHAPES and part.get("outside") != "1":
                yield from _corners(part)
    elif shape.tag == "cuboid":
        for corner in ("tl1", "bl1", "tr1", "br1", "tl2", "bl2", "tr2", "br2"):
            yield _number(shape, f"x{corner}"), _number(shape, f"y{corner}")
    elif shape.tag == "mask":
        left, top = _number(shape, "left"), _number(shape, "top")
        yield left, top
        yield left + _number(shape, "width"), top + _number(shape, "height")
    elif shape.tag == "ellipse":
        x, y, rx, ry = (_number(shape, name) for name in ("cx", "cy", "rx", "ry"))
        yield from corners_around_ellipse(x, y, rx, ry, _number(shape, "rotation", "0"))
    else:
        x0, y0, x1, y1 = (_number(shape, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        if shape.get("rotation") is None:
            yield from ((x0, y0), (x1, y1))
            return
        angle = math.radians(_number(shape, "rotation"))
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        x, y, rx, ry = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
        across, down = rx * cos + ry * sin, rx * sin + ry * cos
        yield from ((x - across, y - down), (x + across, y + down))


def _point(text: str) -> tuple[float, float]:
    x, comma, y = text.partition(",")
    if not comma:
        raise ValueError(f"a point of it is {text!r:.60}, expected x,y")
    return parse_number(x, "point's x"), parse_number(y, "point's y")


def _number(shape: Element, name: str, otherwise: str | None = None) -> float:
    return parse_number(shape.get(name, otherwise), f"{shape.tag}'s {name}")
