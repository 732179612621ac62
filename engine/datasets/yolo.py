"""YOLO: a ``data.yaml``, images below ``images/`` and a text file of boxes for each below ``labels/``.

A line of a label file is a class number, then centre x, centre y, width and height as shares of the picture; or, as for
segmentation, the corners x y x y … of an outline, whose bounding box is taken; or, where the YAML file gives a
``kpt_shape``, a box with the keypoints of a pose, which are left out. An image without a label file, or with an empty
one, shows no object. The dominant class of an image, that of the largest summed box area, is counted, as for COCO.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pc_engine.datasets.records import (
    Box,
    LabelledImage,
    LabelledSet,
    LabelledSetBuilder,
    first_existing,
    image_of_boxes,
    is_file,
    read_error,
)
from pc_engine.decoding.decode import displayed_size
from pc_engine.errors import DataError, ImageError, first_line
from pc_engine.files.file_address import at_home
from pc_engine.sources.folders import images_below

SPLITS = ("train", "val", "test")

_IMAGES, _LABELS = "images", "labels"
_LARGEST_CONFIG = 10_000_000


def read_yolo(path: Path, split: str | None = None) -> LabelledSet:
    """Read a YOLO data set by its YAML file.

    Parameters
    ----------
    path
        The file; ``path`` in it, or else its folder, is what ``train``, ``val`` and ``test`` are relative to. Each of
        these is a folder, a text file that lists images, or a list of such; what is absent is noted, if the others are
        there. Where the file names none of them, the images are those below ``images/``.
    split
        One of `SPLITS`; all where None.

    Raises
    ------
    DataError
        If the file is absent or of another form, does not name the split, the images of that, or of all splits, are
        missing, there is no image, or none has a file of labels.
    """
    config = _config(path)
    names = _class_names(config.get("names"), path)
    keypoints = _keypoint_values(config.get("kpt_shape"), path)
    roots = _roots(config, path)
    builder = LabelledSetBuilder(path.parent.name if split is None else f"{path.parent.name}-{split}", path)
    images = list(dict.fromkeys(_images(config, split, roots, path, builder)))
    if images and not any(is_file(_label_file(image)) for image in images):
        raise DataError(
            f"None of the {len(images)} images that {path} names has a file of labels: that of the first would be "
            f"{_label_file(images[0])}."
        )
    for image in images:
        try:
            builder.add(_labelled(image, names, keypoints, builder))
        except (ValueError, ImageError, OSError) as error:
            builder.skip(str(image), str(error))
    return builder.build()


def _config(path: Path) -> Mapping[str, Any]:
    if not is_file(path):
        raise DataError(f"There is no file {path}: name the YAML file of a YOLO data set, as yolo:FILE.")
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"it is larger than {_LARGEST_CONFIG:,} bytes")
        config = _parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, LookupError) as error:
        raise read_error(path, "YAML", error) from None
    if not isinstance(config, Mapping):
        raise DataError(f"{path} holds no names and values, so it is not the YAML file of a YOLO data set.")
    return config


def _parse_yaml(text: str) -> Any:
    import yaml  # for one form of labels, which few commands read

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            # A few lines of them can stand for more than any memory holds.
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it repeats a part of itself by an alias ('*'): write it out")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", in line {error.problem_mark.line + 1}"
        raise ValueError(f"{error.problem}{line}") from None
    except yaml.YAMLError as error:  # of a character that it does not take
        raise ValueError(first_line(error)) from None


def _class_names(names: Any, path: Path) -> dict[int, str]:
    """Return class number to name, given as a list or by number; none where the file names no classes."""
    items = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, Mapping) else ()
    try:
        return {int(number): str(name) for number, name in items}
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"The 'names' of {path} are not a list of classes or numbers with a class each.") from None


def _keypoint_values(shape: Any, path: Path) -> int | None:
    """Return how many values follow a box, given the number of keypoints and their dimensions; None without poses."""
    if shape is None:
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)):
        raise DataError(
            f"The 'kpt_shape' of {path} is {shape!r:.60}: write the keypoints and their dimensions, as [17, 3]."
        )
    return int(shape[0] * shape[1])


def _roots(config: Mapping[str, Any], path: Path) -> list[Path]:
    """Return the folders that the paths of a file may be relative to, most likely first."""
    root = config.get("path")
    return [path.parent, *([] if root is None else [path.parent / str(root), at_home(str(root))])][::-1]


def _images(
    config: Mapping[str, Any], split: str | None, roots: list[Path], path: Path, builder: LabelledSetBuilder
) -> Iterator[Path]:
    wanted = SPLITS if split is None else (split,)
    given = [config[name] for name in wanted if config.get(name)]
    if split is not None and not given:
        raise DataError(f"{path} names no '{split}' images: ask for all images, without '#{split}'.")
    places = [str(place) for value in given or [_IMAGES] for place in (value if isinstance(value, list) else [value])]
    found = {place: _found(place, roots) for place in places}
    for place, where in found.items():
        if where is not None:
            yield from _images_of(where, roots, path)
        # Some exporters name the folder of a split that has no images.
        elif split is None and any(found.values()):
            builder.skip(place, "there is no such folder or list of images")
        else:
            raise DataError(
                f"The images '{place}' that {path} names are not below {' or '.join(map(str, roots))}: correct it."
            )


def _found(place: str, roots: list[Path]) -> Path | None:
    # Some exporters write '../train/images' for a folder that lies beside the file.
    inside = place.removeprefix("../")
    return first_existing([*(root / place for root in roots), *(root / inside for root in roots)])


def _images_of(found: Path, roots: list[Path], path: Path) -> Iterator[Path]:
    """Yield the images in a folder, or in a list of them."""
    if found.is_dir():
        yield from images_below(found)
        return
    try:
        if not found.is_file():  # a device has no end
            raise ValueError("it is not a file")
        lines = found.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{found}, which {path} names, is neither a folder nor a list of images: {error}.") from None
    for line in filter(None, map(str.strip, lines)):
        yield first_existing([found.parent / line, *(root / line for root in roots)]) or found.parent / line


def _labelled(
    image: Path, names: Mapping[int, str], keypoints: int | None, builder: LabelledSetBuilder
) -> LabelledImage:
    if not is_file(image):
        return LabelledImage(image)  # which the builder notes
    labels = _label_file(image)
    lines = _text(labels).splitlines() if labels.is_file() else []
    rows = [_numbers(line, keypoints, labels) for line in lines if line.strip()]
    if not rows:
        return LabelledImage(image, 0)
    width, height = displayed_size(image)
    return image_of_boxes(image, builder.with_area(image, [_box(row, names, width, height) for row in rows]))


def _text(labels: Path) -> str:
    try:
        return labels.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{labels.name} is not UTF-8 text") from None


def _label_file(image: Path) -> Path:
    """Return where an image's boxes are: ``labels`` takes the place of the last ``images`` of its path."""
    parts = list(image.parent.parts)
    if _IMAGES in parts:
        parts[len(parts) - 1 - parts[::-1].index(_IMAGES)] = _LABELS
    labels = Path(*parts) / f"{image.stem}.txt"
    return first_existing([labels]) or labels


def _numbers(line: str, keypoints: int | None, labels: Path) -> list[float]:
    """Return the class and the box or outline of a line, without the ``keypoints`` values of a pose."""
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        row = []
    # One value more is the confidence of a prediction.
    has_box = len(row) in (5, 6) or (keypoints is not None and len(row) - keypoints in (5, 6))
    has_outline = keypoints is None and len(row) >= 7 and len(row) % 2
    is_class = bool(row) and row[0] >= 0 and row[0].is_integer()
    if not (is_class and (has_box or has_outline)) or not all(map(math.isfinite, row)):
        what = "a box or an outline" if keypoints is None else f"a box, and {keypoints} values of keypoints"
        raise ValueError(f"a line of {labels.name} is {line!r:.60}, expected a class and {what}")
    return row[:5] if has_box else row


def _box(row: list[float], names: Mapping[int, str], width: int, height: int) -> Box:
    number, values = int(row[0]), row[1:]
    if len(values) == 4:
        x, y, w, h = values
        x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        x0, y0, x1, y1 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return Box(x0 * width, y0 * height, x1 * width, y1 * height, names.get(number, str(number)))
