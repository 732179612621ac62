"""From the classes of labelled images to the logits of a network."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.datasets.imagenet import imagenet_classes
from pc_engine.datasets.records import LabelledImage
from pc_engine.errors import DataError
from pc_engine.manifest import Manifest

_WNID = re.compile(r"n\d{8}\b")
_SHOWN = 8
# Of a class's number.
_MOST_DIGITS = 9


@dataclass(frozen=True, eq=False)
class ResolvedClasses:
    """Which logit each image's class is.

    Attributes
    ----------
    class_ids
        Logit index of each image, (n,) int64, -1 where the class is not one of the network's.
    unmatched
        The classes that were not matched, each once.
    """

    class_ids: np.ndarray
    unmatched: tuple[str, ...]

    @property
    def report(self) -> str:
        """One sentence on what was not matched; empty where everything was."""
        missed = int((self.class_ids < 0).sum())
        if not missed:
            return ""
        return (
            f"{missed} of {len(self.class_ids)} images are left out because their class is not one of the network's: "
            f"{_listed(self.unmatched)}."
        )


def resolve_class_ids(images: Sequence[LabelledImage], manifest: Manifest) -> ResolvedClasses:
    """Match each image's class to a logit of the network.

    Parameters
    ----------
    images
        Class-labelled images.
    manifest
        Of the network. Where it names the classes, names decide: the whole name, a WordNet id, the first synonym
        (what stands before a comma), or any synonym, in this order, without regard to case. Numbers count only
        for images without a name, because the numbering of the labels need not be the network's (ImageNet's class
        0 is logit 1 of a network with a background class). A name that is itself a number and names no class is
        taken as the logit's number.

    Returns
    -------
    ResolvedClasses
        The logit of each image. Where a name fits several classes (ImageNet has two named "crane"), the images'
        class numbers decide, by the offset between numbering and logits that the unambiguous images agree on; without
        numbers such a name stays unmatched.

    Raises
    ------
    DataError
        If no image's class is matched.
    """
    index = _ClassIndex(manifest.classes)
    candidates = [_candidates(image, index, manifest.n_classes) for image in images]
    offset = _common_offset(images, candidates)
    ids = [_choose(image, found, offset) for image, found in zip(images, candidates, strict=True)]
    missed = (_described(image) for image, class_id in zip(images, ids, strict=True) if class_id < 0)
    resolved = ResolvedClasses(np.array(ids, dtype=np.int64), tuple(dict.fromkeys(missed)))
    if not (resolved.class_ids >= 0).any():
        known = f"classes such as {_listed(manifest.classes)}" if manifest.classes else "classes without names"
        raise DataError(
            f"None of the {len(images)} images has a class of the network '{manifest.name}': they have "
            f"{_listed(resolved.unmatched) or 'no class'}, it has {manifest.n_classes} {known}. Name the classes "
            f"as the network does, or give logit numbers in a column 'class_index'."
        )
    return resolved


class _ClassIndex:
    """Finds the logits of a class by its name, most exact way first."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.has_names = bool(classes)
        self._ways: list[dict[str, list[int]]] = []
        for keys in (_whole_name, _wnids, _first_synonym, _synonyms):
            way: dict[str, list[int]] = defaultdict(list)
            for logit, name in enumerate(classes):
                for key in keys(name):
                    way[key].append(logit)
            self._ways.append(dict(way))
        self._ways.append(_imagenet_wnids(classes))

    def find(self, name: str) -> list[int]:
        """Return the logits of the classes that ``name`` fits equally well; none where it fits no class."""
        for key in (*_whole_name(name), *_wnids(name), *_first_synonym(name)):
            for way in self._ways:
                if key in way:
                    return way[key]
        return []


def _imagenet_wnids(classes: Sequence[str]) -> dict[str, list[int]]:
    """Return WordNet id to logit, as ImageNet's folders are named, for a network whose last classes are ImageNet's."""
    wnids, names = zip(*imagenet_classes(), strict=True)
    before = len(classes) - len(names)
    if before < 0 or tuple(classes[before:]) != names:
        return {}
    return {wnid: [before + number] for number, wnid in enumerate(wnids)}


def _whole_name(name: str) -> list[str]:
    return [" ".join(name.replace("_", " ").casefold().split())]


def _wnids(name: str) -> list[str]:
    return _WNID.findall(name.casefold())


def _first_synonym(name: str) -> list[str]:
    return _whole_name(name.partition(",")[0])


def _synonyms(name: str) -> list[str]:
    return [key for part in name.split(",") for key in _whole_name(part)]


def _candidates(image: LabelledImage, index: _ClassIndex, n_classes: int) -> list[int]:
    for name in (image.class_name, image.wnid):
        found = index.find(name) if name else []
        if found:
            return found
    number = image.class_id
    if image.class_name is not None and (index.has_names or number is None):
        number = _canonical_number(image.class_name)
    return [number] if number is not None and number < n_classes else []


def _canonical_number(text: str) -> int | None:
    """Return the number that ``text`` is; "007" is a name."""
    is_number = len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit()
    return int(text) if is_number and str(int(text)) == text else None


def _common_offset(images: Sequence[LabelledImage], candidates: Sequence[Sequence[int]]) -> int | None:
    """Return logit minus class number, where at least nine in ten of the images that tell agree on it."""
    offsets = Counter(
        found[0] - image.class_id
        for image, found in zip(images, candidates, strict=True)
        if image.class_id is not None and len(found) == 1
    )
    if not offsets:
        return None
    offset, votes = offsets.most_common(1)[0]
    return offset if votes >= 0.9 * offsets.total() else None


def _choose(image: LabelledImage, found: Sequence[int], offset: int | None) -> int:
    if len(found) == 1:
        return found[0]
    if offset is not None and image.class_id is not None and image.class_id + offset in found:
        return image.class_id + offset
    return -1


def _described(image: LabelledImage) -> str:
    if image.class_name is not None:
        return image.class_name
    return "no class" if image.class_id is None else f"number {image.class_id}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
