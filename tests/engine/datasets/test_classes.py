from __future__ import annotations

from pathlib import Path

import pytest

from pc_engine.datasets import LabelledImage, resolve_class_ids
from pc_engine.errors import DataError
from pc_engine.manifest import Manifest, NetworkInput, Tap

IMAGENET = (
    "background",
    "tench, Tinca tinca",
    "crane",
    "maillot",
    "maillot, tank suit",
    "crane",
    "hotdog, hot dog, red hot",
)


def make_manifest(classes: tuple[str, ...] = IMAGENET, n_classes: int = 7) -> Manifest:
    taps = {"conv_last": Tap("c", (3, 2, 2)), "logits": Tap("l", (n_classes,))}
    return Manifest("tiny", NetworkInput("image", 32, 32), taps, (), classes=classes)


def image(name: str | None = None, number: int | None = None, wnid: str | None = None) -> LabelledImage:
    return LabelledImage(Path("x.jpg"), None, name, number, wnid=wnid)


@pytest.mark.parametrize(
    ("name", "logit"),
    [
        ("tench, Tinca tinca", 1),
        ("TENCH, tinca  tinca", 1),
        ("tench", 1),
        ("tench, another synonym", 1),
        ("maillot", 3),
        ("maillot, tank suit", 4),
        ("hot_dog", 6),
        ("3", 3),
    ],
)
def test_names_are_matched_from_exact_to_synonym(name: str, logit: int) -> None:
    assert resolve_class_ids([image(name)], make_manifest()).class_ids.tolist() == [logit]


def test_the_name_decides_over_the_number_of_another_numbering() -> None:
    resolved = resolve_class_ids([image("tench", 0), image("hot dog", 5)], make_manifest())
    assert resolved.class_ids.tolist() == [1, 6]
    assert resolved.report == ""


def test_two_classes_of_one_name_are_told_apart_by_the_offset_of_the_numbers() -> None:
    images = [image("tench", 0), image("maillot", 2), image("crane", 1), image("crane", 4), image("crane")]
    resolved = resolve_class_ids(images, make_manifest())
    assert resolved.class_ids.tolist() == [1, 3, 2, 5, -1]
    assert resolved.report == "1 of 5 images are left out because their class is not one of the network's: 'crane'."


def test_numbers_that_disagree_do_not_tell_classes_apart() -> None:
    images = [image("tench", 0), image("maillot", 5), image("crane", 1)]
    assert resolve_class_ids(images, make_manifest()).class_ids.tolist() == [1, 3, -1]


def test_wordnet_ids_match_classes_named_by_them() -> None:
    manifest = make_manifest(("n01440764", "n01443537 goldfish"), 2)
    images = [image("n01443537"), image("tench", 5, "n01440764"), image("n01440764")]
    assert resolve_class_ids(images, manifest).class_ids.tolist() == [1, 0, 0]


def test_a_network_without_names_takes_numbers() -> None:
    images = [image("cat", 3), image(None, 6), image("5"), image("0"), image("007"), image(None, 7), image("dog")]
    resolved = resolve_class_ids(images, make_manifest(()))
    assert resolved.class_ids.tolist() == [3, 6, 5, 0, -1, -1, -1]
    assert resolved.unmatched == ("007", "number 7", "dog")


def test_an_unknown_name_is_not_replaced_by_its_number() -> None:
    resolved = resolve_class_ids([image("tench", 0), image("zebra", 1), image(None, 2)], make_manifest())
    assert resolved.class_ids.tolist() == [1, -1, 2]
    assert resolved.unmatched == ("zebra",)


def test_no_match_at_all_shows_both_vocabularies() -> None:
    images = [image(f"thing {i}") for i in range(20)]
    with pytest.raises(
        DataError, match=r"'thing 0'.* and 12 more, it has 7 classes such as 'background', 'tench, Tinca"
    ):
        resolve_class_ids(images, make_manifest())
    with pytest.raises(DataError, match="no class"):
        resolve_class_ids([image()], make_manifest())
    with pytest.raises(DataError, match="None of the 0 images"):
        resolve_class_ids([], make_manifest())
