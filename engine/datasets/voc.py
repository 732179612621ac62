"""Pascal VOC: an XML file for each image below ``Annotations/``, and the images in ``JPEGImages/``, or both together.

The dominant class of an image, that of the largest summed box area, is counted, as for COCO. As in the devkit of the
challenge, pixels are numbered from 1 and the last one belongs to the box. Objects that are marked ``difficult`` count
neither way there; here they are regions that may hold an object or not, as COCO's crowds: of an image whose dominant
class has one the number is not known, and it keeps its class and boxes. Parts of objects are left aside. An image
without objects counts 0. A split is a list of images in ``ImageSets/Main/``, such as ``trainval.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from xml.etree.ElementTree import Element

from pc_engine.datasets.records import (
    Box,
    LabelledImage,
    LabelledSet,
    LabelledSetBuilder,
    find_image,
    image_of_boxes,
    is_file,
)
from pc_engine.datasets.xml_children import read_children
from pc_engine.errors import DataError, first_line
from pc_engine.files.text_values import parse_number
from pc_engine.sources import IMAGE_SUFFIXES
from pc_engine.sources.folders import files_below

_ROOT, _OBJECT, _BOX = "annotation", "object", "bndbox"
_FILE_NAME, _PATH, _SOURCE = "filename", "path", "source"
# How the source begins of what `pc-engine convert` made, and ends where anybody reviewed it.
_OF_RUN, _REVIEWED = "pc-engine ", " reviewed"
_OTHER_FORMS = {"annotations": "it is a CVAT file: name it as cvat:FILE"}
# The folder of XML files in small letters, one in it that the images' folder lacks, and what that is called.
_ANNOTATIONS, _XMLS = "annotations", "xmls"
_IMAGES = ("JPEGImages", "images", "img", "Data")
# What a line of a split has behind a name where it is of a class: whether the image shows that.
_SHOWS = re.compile(r"\s+-?[01]$")


def has_annotations(directory: Path) -> bool:
    """Whether a folder has one with XML files that is called as VOC's is."""
    return any(any(_xml_files(folder)) for folder in _annotation_folders(directory))


def read_voc(directory: Path, images: Path | None = None, split: str | None = None) -> LabelledSet:
    """Read a data set by its folder.

    Parameters
    ----------
    directory
        The folder that ``Annotations/`` lies in, or any above XML files.
    images
        The folder below which the images lie as the XML files do below theirs; None where they lie in ``JPEGImages/``,
        ``images/``, ``img/`` or ``Data/`` in the place of ``Annotations/``, beside the files, or where these say.
    split
        Which list of images is read; None for all of them.

    Raises
    ------
    DataError
        If there is no such folder or split, it holds no XML file, or none gives an image.
    """
    if not directory.is_dir():
        raise DataError(f"There is no folder {directory}: name that of a Pascal VOC data set, as voc:DIR.")
    directory = directory if directory.name else directory.resolve()  # of "." the name says where images lie, too
    files = [file for folder in _annotation_folders(directory) for file in sorted(_xml_files(folder))]
    files = files or sorted(_xml_files(directory))
    if not files:
        raise DataError(f"{directory} holds no XML files: name the folder that Annotations/ lies in, as voc:DIR.")
    builder = LabelledSetBuilder(directory.resolve().name, directory)
    if split is not None:
        files = _of_split(files, directory, split, builder)
    remedy = f" (if the images are elsewhere: 'voc:{directory}@IMAGES_DIR')" if images is None else ""
    for file in files:
        try:
            image, by_run = _labelled(file, directory, images, builder)
            builder.add(image, remedy, by_run=by_run)
        except (OSError, ValueError) as error:
            builder.skip(str(file), str(error))
    return builder.build()


def _of_split(files: list[Path], directory: Path, split: str, builder: LabelledSetBuilder) -> list[Path]:
    """Return the XML files of the images that a split lists, by their names or the files'; others are skipped."""
    lists = {file.stem: file for file in sorted(directory.glob("ImageSets/Main/*.txt")) if is_file(file)}
    if split not in lists:
        # Of each class there are lists, too, which say of the images of a split whether they show it.
        known = [name for name in lists if not any(name.endswith(f"_{other}") for other in lists)]
        shown = f"write #{', #'.join(known[:10])}" if known else f"there are no lists in {directory / 'ImageSets/Main'}"
        raise DataError(f"The split '{split}' of voc:{directory} is not known: {shown}, or nothing for all images.")
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(file.stem, []).append(file)
    try:
        lines = lists[split].read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{lists[split]} cannot be read ({first_line(error)}); save it as UTF-8 text.") from None
    found: dict[Path, None] = {}  # each once, whoever names it twice
    for line in filter(None, map(str.strip, lines)):
        name = line if line in named else _SHOWS.sub("", line)
        is_image = PurePath(name).suffix.lower() in IMAGE_SUFFIXES
        of_name = named.get(name) or named.get(PurePath(name).stem if is_image else name)
        if of_name is None:
            builder.skip(name, f"{lists[split].name} names it, but there is no XML file for it")
        found.update(dict.fromkeys(of_name or ()))
    return [*found]


def _annotation_folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*") if path.name.lower() == _ANNOTATIONS and path.is_dir())


def _xml_files(folder: Path) -> Iterator[Path]:
    # What macOS keeps beside a file on foreign disks has its suffix, too.
    return (path for path in files_below(folder) if path.suffix.lower() == ".xml" and not path.name.startswith("."))


def _labelled(
    file: Path, directory: Path, images: Path | None, builder: LabelledSetBuilder
) -> tuple[LabelledImage, bool]:
    """Return the image of an XML file, and whether a run said what it shows and nobody reviewed that."""
    if not is_file(file):  # others may have no end
        raise ValueError("it is not a file")
    sure, difficult = list[Box](), list[Box]()
    said = dict.fromkeys((_FILE_NAME, _PATH), "")
    by_run = False
    for element in read_children(file, _ROOT, _OTHER_FORMS):
        if element.tag == _OBJECT:
            (difficult if _text(element, "difficult") == "1" else sure).append(_box(element))
        elif element.tag == _SOURCE:
            by = _text(element, "annotation") or ""
            by_run = by.startswith(_OF_RUN) and not by.endswith(_REVIEWED)
        elif element.tag in said:
            said[element.tag] = (element.text or "").strip()
    folders = _image_folders(file.parent, directory, images)
    image = _image_file(file, said[_FILE_NAME], folders, said[_PATH] if images is None else "")
    boxes, regions = builder.with_area(image, sure), builder.with_area(image, difficult)
    return image_of_boxes(image, boxes, regions, {box.class_name for box in difficult}), by_run


def _box(element: Element) -> Box:
    corners = element.find(_BOX)
    if corners is None:
        raise ValueError(f"an object of it has no {_BOX}")
    x0, y0, x1, y1 = (parse_number(_text(corners, name), name) for name in ("xmin", "ymin", "xmax", "ymax"))
    return Box(x0 - 1, y0 - 1, x1, y1, _text(element, "name") or None)


def _text(element: Element, tag: str) -> str | None:
    text = element.findtext(tag)
    return None if text is None else text.strip()


def _image_folders(parent: Path, directory: Path, images: Path | None) -> list[Path]:
    """Return where the images of the XML files in a folder may lie, most likely first."""
    names = (directory.name, *parent.relative_to(directory).parts)
    place = next((place for place, name in enumerate(names) if name.lower() == _ANNOTATIONS), None)
    if place is None:
        return [parent if images is None else images.joinpath(*names[1:])]
    below = [name for name in names[place + 1 :] if name.lower() != _XMLS]
    if images is not None:
        return [images.joinpath(*below)]
    root = directory.parent.joinpath(*names[:place])
    return [*(root.joinpath(name, *below) for name in _IMAGES), root.joinpath(*below), parent]


def _image_file(file: Path, name: str, folders: list[Path], path: str) -> Path:
    """Return the image that an XML file is of, or where it is to be missed.

    It is called as the file says, or else as the file itself, as people rename one of the two, or lies where ``path``
    says. Where there are images of both names nothing says which it is.
    """
    named = find_image(folders, name)
    own = find_image(folders, file.stem) if named is None or PurePath(name).stem != file.stem else named
    if named is not None and own is not None and named != own:
        raise ValueError(f"it says that it is of {name:.60}, but {own.name:.60} has its name: rename one of the two")
    if found := named or own:
        return found
    return Path(path) if path and is_file(Path(path)) else folders[0] / (name or file.stem)
