from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pc_engine.bench.collages.collages import CollageSettings, make_collages
from pc_engine.datasets import Box, LabelledImage, LabelledSet, read_labelled
from pc_engine.errors import DataError, UsageError

SIZE = 64


@pytest.fixture
def photos(tmp_path: Path) -> LabelledSet:
    """Twenty photos, each of a colour of its own with two objects of another colour of its own."""
    images = []
    for number in range(20):
        picture = Image.new("RGB", (160, 120), ground_colour(number))
        boxes = []
        for x in (0, 50):
            picture.paste(object_colour(number), (x, 0, x + 40, 30))
            boxes.append(Box(x, 0, x + 40, 30, "even" if number % 2 == 0 else "odd"))
        picture.save(tmp_path / f"{number}.png")
        images.append(LabelledImage(tmp_path / f"{number}.png", boxes=tuple(boxes)))
    return LabelledSet("colours", tuple(images))


def ground_colour(number: int) -> tuple[int, int, int]:
    return (10 * number, 0, 50)


def object_colour(number: int) -> tuple[int, int, int]:
    return (10 * number, 200, 0)


def make(photos: LabelledSet, folder: Path, n: int = 60, seed: int = 1, **options: Any) -> dict[str, Any]:
    settings = CollageSettings(**{"size": SIZE, "max_count": 3, "groups": 2, **options})
    made = make_collages([photos], folder, n, seed, settings)
    assert made.labels == folder / "labels.json"
    labels: dict[str, Any] = json.loads(made.labels.read_text())
    return labels


def test_pictures_show_what_their_labels_say(photos: LabelledSet, tmp_path: Path) -> None:
    labels = make(photos, tmp_path / "out")
    assert labels["n"] == len(labels["images"]) == 60
    for entry in labels["images"]:
        with Image.open(tmp_path / "out" / entry["file"]) as picture:
            pixels = np.array(picture)
        assert pixels.shape == (SIZE, SIZE, 3)
        ground, *objects = (int(Path(source).stem) for source in entry["sources"])
        assert len(objects) == len(entry["boxes"]) == entry["count"] == entry["n_boxes"]
        for number, box in zip(objects, entry["boxes"], strict=True):
            x, y, width, height = box["b"]
            assert (pixels[y : y + height, x : x + width] == object_colour(number)).all()
            pixels[y : y + height, x : x + width] = ground_colour(ground)
            assert box["c"] == entry["dominant"] == ("even" if number % 2 == 0 else "odd")
        assert (pixels == ground_colour(ground)).all()
        # Each object once.
        assert max(Counter(objects).values(), default=0) <= 2


def test_counts_are_uniform_and_sizes_and_gaps_as_asked_for(photos: LabelledSet, tmp_path: Path) -> None:
    labels = make(photos, tmp_path / "out", n=200, scale=(0.25, 0.25), spacing=0.1, max_count=2)
    counts = Counter(entry["count"] for entry in labels["images"])
    assert set(counts) == {0, 1, 2}
    assert min(counts.values()) > 45
    for entry in labels["images"]:
        boxes = [box["b"] for box in entry["boxes"]]
        for _, _, width, height in boxes:
            assert 0.25 * 0.87 * SIZE <= width <= 0.25 * 1.13 * SIZE
            assert height == pytest.approx(width * 3 / 4, abs=1)
        for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(boxes, 2):
            assert max(bx - ax - aw, ax - bx - bw, by - ay - ah, ay - by - bh) >= 0.1 * SIZE
    assert {entry["dominant"] for entry in labels["images"]} == {None, "even", "odd"}


def test_what_finds_no_room_shrinks(photos: LabelledSet, tmp_path: Path) -> None:
    labels = make(photos, tmp_path / "out", n=20, scale=(0.9, 0.9), spacing=0.2)
    counts = {entry["count"] for entry in labels["images"]}
    assert counts == {0, 1, 2, 3}
    for entry in labels["images"]:
        for box in entry["boxes"]:
            assert box["b"][0] + box["b"][2] <= SIZE
        if entry["count"] == 3:
            assert max(box["b"][2] for box in entry["boxes"]) < 0.6 * SIZE


def test_a_seed_gives_the_same_bytes_and_another_one_others(photos: LabelledSet, tmp_path: Path) -> None:
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        make(photos, tmp_path / folder, n=12, seed=seed)
    first, again, other = (
        [path.read_bytes() for path in sorted((tmp_path / folder).iterdir())] for folder in ("a", "b", "c")
    )
    assert first == again
    assert first != other


def test_groups_share_no_photo_and_folds_are_told(photos: LabelledSet, tmp_path: Path) -> None:
    labels = make(photos, tmp_path / "out", groups=3, n=90, max_count=2)
    sources: dict[str, set[str]] = {}
    for entry in labels["images"]:
        sources.setdefault(entry["group"], set()).update(entry["sources"])
    assert len(sources) == 3
    for one, other in combinations(sources.values(), 2):
        assert not one & other
    read = read_labelled(str(tmp_path / "out"))
    assert [image.group for image in read.images] == [entry["group"] for entry in labels["images"]]
    assert Counter(image.group for image in read.images) == {"0": 30, "1": 30, "2": 30}


def test_objects_without_classes_all_count(tmp_path: Path) -> None:
    images = []
    for number in range(4):
        Image.new("RGB", (160, 120)).save(tmp_path / f"{number}.png")
        images.append(LabelledImage(tmp_path / f"{number}.png", boxes=(Box(0, 0, 40, 40), Box(50, 0, 90, 40))))
    make(LabelledSet("plain", tuple(images)), tmp_path / "out", n=20)
    collages = read_labelled(str(tmp_path / "out")).images
    assert max(image.count or 0 for image in collages) > 1
    for image in collages:
        assert image.class_name is None
        assert len(image.counted_boxes) == image.count


def test_wrong_use_is_said(photos: LabelledSet, tmp_path: Path) -> None:
    make(photos, tmp_path / "out", n=4)
    with pytest.raises(UsageError, match="exists and is not empty"):
        make(photos, tmp_path / "out", n=4)
    with pytest.raises(UsageError, match="1 collages in 2 groups"):
        make(photos, tmp_path / "new", n=1)
    with pytest.raises(DataError, match="too few for collages of 50"):
        make(photos, tmp_path / "new", max_count=50)
    with pytest.raises(UsageError, match="150 objects do not fit into a picture of 32 pixels"):
        CollageSettings(size=32, max_count=150)
    with pytest.raises(UsageError, match="use 32 to 4,096 pixels"):
        CollageSettings(size=5000)
    assert not (tmp_path / "new").exists()
    for options in ({"scale": (0.5, 0.2)}, {"scale": (0.0, 0.2)}, {"scale": (0.5, 1.1)}, {"size": 8}):
        with pytest.raises(UsageError, match="cannot be made: use 32 to"):
            CollageSettings(**options)
    for options in ({"max_count": 0}, {"groups": 0}, {"spacing": -0.1}, {"spacing": 1.0}):
        with pytest.raises(UsageError, match="ask for at least 1 object"):
            CollageSettings(**options)
