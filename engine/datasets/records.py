"""What every reader of labelled data gives: images with their counts, classes and boxes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from pc_engine.errors import DataError, system_reason
from pc_engine.files.letter_forms import in_other_form
from pc_engine.shown_text import for_sentence
from pc_engine.sources import IMAGE_SUFFIXES

# Letters of an item that are shown where it is skipped.
_LONGEST_ITEM = 300
# Of an image that is named without its own, the likely ones first.
_SUFFIXES = tuple(
    written
    for suffix in sorted(IMAGE_SUFFIXES, key=lambda suffix: (suffix not in (".jpg", ".png"), suffix))
    for written in (suffix, suffix.upper())
)


@dataclass(frozen=True)
class Box:
    """One object: its corners in pixels, x to the right and y down, ``x0 < x1`` and ``y0 < y1``."""

    x0: float
    y0: float
    x1: float
    y1: float
    class_name: str | None = None

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True)
class LabelledImage:
    """One image and what its labels say; None where they are silent.

    Attributes
    ----------
    path
        The image file.
    count
        Number of salient objects, where boxes of several classes are given those of the dominant class. A label "4+"
        is read as 4: at least that many.
    class_name
        Name of the (dominant) class, or its WordNet id where the labels give no name.
    class_id
        Number of the class in the labels' own numbering, which need not be the network's (see
        :func:`pc_engine.datasets.resolve_class_ids`).
    boxes
        The objects, of all classes. Crowd regions, which hold uncounted objects, are left out.
    wnid
        WordNet id of the class, e.g. ``"n01440764"``.
    crowds
        The crowd regions.
    group
        Images of one group show parts of the same photos, so that one says something about another: folds keep them
        together. None for an image that stands for itself.
    """

    path: Path
    count: int | None = None
    class_name: str | None = None
    class_id: int | None = None
    boxes: tuple[Box, ...] = ()
    wnid: str | None = None
    crowds: tuple[Box, ...] = ()
    group: str | None = None

    @property
    def counted_boxes(self) -> tuple[Box, ...]:
        """The boxes that `count` speaks of: those of the image's class, or of the dominant one where it names none.

        Boxes without classes are all counted. As labelled: they may reach out of the frame (see `clip_to_frame`).
        """
        classes = {box.class_name for box in self.boxes}
        if classes <= {None}:
            return self.boxes
        wanted = self.class_name if self.class_name is not None else dominant_class(self.boxes)[0]
        return tuple(box for box in self.boxes if box.class_name == wanted)


def clip_to_frame(boxes: Iterable[Box], width: float, height: float) -> tuple[tuple[Box, ...], int, int]:
    """Cut boxes to a picture of ``width`` x ``height`` pixels.

    Returns the boxes that keep some area, how many of these were cut, and how many lay outside and were left out.
    """
    boxes = tuple(boxes)
    moved = [
        replace(box, x0=max(box.x0, 0.0), y0=max(box.y0, 0.0), x1=min(box.x1, width), y1=min(box.y1, height))
        for box in boxes
    ]
    kept = [(new, old) for new, old in zip(moved, boxes, strict=True) if new.x1 > new.x0 and new.y1 > new.y0]
    return tuple(new for new, _ in kept), sum(new != old for new, old in kept), len(boxes) - len(kept)


@dataclass(frozen=True)
class LabelledSet:
    """A data set.

    Attributes
    ----------
    name
        Its name.
    images
        Those that can be used.
    skipped
        Images and boxes that were left out, as (item, reason).
    by_run
        How many images have the count that a run gave them, and that nobody reviewed.
    """

    name: str
    images: tuple[LabelledImage, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    by_run: int = 0


class LabelledSetBuilder:
    """Collects the images of a set and the items that had to be skipped.

    Parameters
    ----------
    name
        Name of the set.
    source
        What is read, for the error where nothing in it can be used.
    """

    def __init__(self, name: str, source: Path) -> None:
        self._name = name
        self._source = source
        self._images: list[LabelledImage] = []
        self._seen: set[LabelledImage] = set()
        self._counts: dict[Path, set[int]] = {}
        self._skipped: list[tuple[str, str]] = []
        self._by_run: set[LabelledImage] = set()

    def add(self, image: LabelledImage, remedy: str = "", *, by_run: bool = False) -> None:
        """Take an image, if its file is there and it was not taken already.

        ``remedy`` is what to do if it is not there; ``by_run`` that its count is what a run said.
        """
        if not is_file(image.path):
            self.skip(str(image.path), f"there is no such file{remedy}")
            return
        if image in self._seen:
            self.skip(str(image.path), "it is listed again with the same labels")
            return
        self._seen.add(image)
        self._images.append(image)
        if by_run and image.count is not None:
            self._by_run.add(image)
        if image.count is not None:
            self._counts.setdefault(image.path, set()).add(image.count)

    def skip(self, item: str, reason: str) -> None:
        """Note an item that cannot be used."""
        # A cell of a table may hold lines, and it is named in a sentence.
        line = for_sentence(item)
        self._skipped.append((line if len(line) <= _LONGEST_ITEM else f"{line[:_LONGEST_ITEM]} ...", reason))

    def boxes(self, item: object, objects: Iterable[tuple[Any, Any]]) -> tuple[Box, ...]:
        """Return the boxes of ``([x, y, width, height], class)`` pairs, less those without area, which are noted.

        Raises
        ------
        ValueError
            If a box is not four finite numbers.
        """
        return self.with_area(item, [_parse_xywh(xywh, class_name) for xywh, class_name in objects])

    def with_area(self, item: object, boxes: Iterable[Box]) -> tuple[Box, ...]:
        """Return the boxes less those without area, which are noted: a slip in the labels, seen in several sets."""
        kept = []
        for box in boxes:
            if box.x1 > box.x0 and box.y1 > box.y0:
                kept.append(box)
            else:
                corners = (box.x0, box.y0, box.x1, box.y1)
                self.skip(f"a box of {item}", f"its corners {corners} enclose no area; the image is kept without it")
        return tuple(kept)

    def build(self) -> LabelledSet:
        """Return the set; images that are listed with several counts are noted and left out.

        Raises
        ------
        DataError
            If it holds no image.
        """
        contradicted = {path: counts for path, counts in self._counts.items() if len(counts) > 1}
        for path, counts in contradicted.items():
            self.skip(str(path), f"it is listed with the counts {' and '.join(map(str, sorted(counts)))}")
        images = tuple(image for image in self._images if image.path not in contradicted)
        if not images:
            why = "it lists none"
            if self._skipped:
                item, reason = self._skipped[0]
                why = f"each of its {len(self._skipped)} entries was skipped, the first, {item}, because {reason}"
            raise DataError(f"{self._source} gives no labelled image: {why}.")
        return LabelledSet(self._name, images, tuple(self._skipped), len(self._by_run.intersection(images)))


def _parse_xywh(values: Any, class_name: Any) -> Box:
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its box {values!r:.60} is not [x, y, width, height]") from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"its box {values!r:.60} is not finite")
    return Box(x, y, x + width, y + height, None if class_name is None else str(class_name))


def dominant_class(boxes: Sequence[Box]) -> tuple[str | None, int]:
    """Return the class of the largest summed box area and its number of boxes; (None, 0) without boxes."""
    areas: dict[str | None, float] = {}
    for box in boxes:
        areas[box.class_name] = areas.get(box.class_name, 0.0) + box.area
    if not areas:
        return None, 0
    dominant = max(areas, key=lambda name: areas[name])
    return dominant, sum(box.class_name == dominant for box in boxes)


def counted_class(names: Sequence[str | None], boxes: Sequence[Box]) -> tuple[str | None, int]:
    """Return the class that is counted, given that of each object and all ``boxes``, and its number of objects.

    In every form of labels it is the dominant class, so that a set does not change its counts with its form. Where not
    all objects have boxes, such as points, there are no ``boxes``, and it is the class that most objects have.
    """
    if boxes or not names:
        return dominant_class(boxes)
    return Counter(names).most_common(1)[0]


def image_of_boxes(
    path: Path,
    boxes: tuple[Box, ...],
    crowds: tuple[Box, ...] = (),
    uncounted: Collection[str | None] = (),
    class_name: str | None = None,
) -> LabelledImage:
    """Return an image of which the objects of one class are counted: of ``class_name``, else of the dominant class.

    Where ``uncounted``, the classes of regions such as ``crowds``, has that class, their number is not known; nor is it
    where there are such regions only.
    """
    if class_name is None:
        class_name = dominant_class(boxes)[0]
    image = LabelledImage(path, None, class_name, boxes=boxes, crowds=crowds)
    counted = {class_name, *(box.class_name for box in image.counted_boxes)}
    known = counted.isdisjoint(uncounted) if boxes else not uncounted
    return replace(image, count=len(image.counted_boxes)) if known else image


def box_around(points: Iterable[tuple[float, float]], class_name: str | None) -> Box | None:
    """Return the box that points just fill; None where it has no area, or where there are none."""
    corners = list(points)
    if not corners:
        return None
    xs, ys = zip(*corners, strict=True)
    if min(xs) >= max(xs) or min(ys) >= max(ys):
        return None
    return Box(min(xs), min(ys), max(xs), max(ys), class_name)


def corners_around_ellipse(
    x: float, y: float, rx: float, ry: float, degrees: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the corners of the box around an ellipse of these half axes that is turned about its middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across, down = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return (x - across, y - down), (x + across, y + down)


def if_each_has_one(boxes: Sequence[Box | None]) -> tuple[Box, ...]:
    """Return the boxes of objects; none where any has not got one, such as a point."""
    return tuple(box for box in boxes if box is not None) if None not in boxes else ()


def beside(folder: Path, name: str) -> Path:
    """Return the file of this name in ``folder``, also where its name was written on Windows or on a Mac."""
    path = folder / name
    if (name.isascii() and "\\" not in name) or is_file(path):
        return path
    other = folder / name.replace("\\", "/")
    return next(filter(is_file, (other, *_in_other_form(other))), path)


def find_image(folders: Sequence[Path], name: str) -> Path | None:
    """Return the image of this name in the first of ``folders`` that has it, or else of this name and a suffix."""
    if not name:
        return None
    names = [name]
    if PurePath(name).suffix.lower() not in IMAGE_SUFFIXES:
        names += [name + suffix for suffix in _SUFFIXES]
    return next((path for one in names for folder in folders if is_file(path := beside(folder, one))), None)


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises
    ------
    DataError
        If it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise read_error(path, "JSON", error) from None


def read_error(path: Path, form: str, error: Exception) -> DataError:
    """Return the error that says why a file of labels cannot be read as ``form``, and what to do."""
    if isinstance(error, OSError):
        return DataError(f"{path} cannot be read ({system_reason(error)}): name a file that you may read.")
    if isinstance(error, UnicodeDecodeError):
        excel = ", in Excel as 'CSV UTF-8'" if form == "CSV" else ""
        return DataError(f"{path} cannot be read as {form} in UTF-8: save it in that encoding{excel}.")
    return DataError(f"{path} cannot be read as {form}: {error}.")


def is_file(path: Path) -> bool:
    """Whether there is such a file, also where no file can have such a name."""
    try:
        return path.is_file()
    except OSError:  # the name is too long, or its folder may not be entered
        return False


def first_existing(candidates: Iterable[Path]) -> Path | None:
    """Return the first path that exists, else the first that does with its letters in another form, or None."""
    paths = list(candidates)
    return next(filter(_exists, paths), None) or next(chain.from_iterable(map(_in_other_form, paths)), None)


def _in_other_form(path: Path) -> tuple[Path, ...]:
    found = in_other_form(str(path))
    return () if found is None else (Path(found),)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # as above
        return False
