from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pc_engine.datasets import read_labelled, resolve_class_ids
from pc_engine.manifest import Manifest, NetworkInput, Tap

pytestmark = pytest.mark.data


@pytest.mark.parametrize(
    ("name", "by_count"),
    [("coco", [5, 361, 119, 39, 26, 121]), ("fruit", [0, 188, 46, 34, 19, 13])],
)
def test_counts_of_photos_with_boxes(data_directory: Path, name: str, by_count: list[int]) -> None:
    labelled = read_labelled(str(data_directory / name))
    assert labelled.skipped == ()
    counts = Counter(min(image.count, 5) for image in labelled.images if image.count is not None)
    assert [counts[count] for count in range(6)] == by_count


def test_the_dominant_class_found_from_the_boxes_is_the_labelled_one(data_directory: Path, tmp_path: Path) -> None:
    raw = json.loads((data_directory / "coco/labels.json").read_text())
    labelled = {image.path.name: image for image in read_labelled(str(data_directory / "coco")).images}
    names = sorted({box["c"] for entry in raw["images"] for box in entry["boxes"]})
    coco = {
        "images": [{"id": number, "file_name": entry["file"]} for number, entry in enumerate(raw["images"])],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            {"image_id": number, "category_id": names.index(box["c"]), "bbox": box["b"], "iscrowd": box.get("crowd", 0)}
            for number, entry in enumerate(raw["images"])
            for box in entry["boxes"]
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    images = read_labelled(f"coco:{tmp_path / 'instances.json'}@{data_directory / 'coco'}").images
    assert len(images) == 671
    for image in images:
        assert image.class_name == labelled[image.path.name].class_name
        assert image.boxes == labelled[image.path.name].boxes
        assert image.count in (None, labelled[image.path.name].count)


def test_imagenet_names_find_their_logits_behind_a_background_class(data_directory: Path) -> None:
    labelled = read_labelled(str(data_directory / "imagenet1k_sample"))
    assert len(labelled.images) == 1000
    names = [str(image.class_name) for image in labelled.images]
    taps = {"conv_last": Tap("c", (8, 7, 7)), "logits": Tap("l", (1001,))}
    manifest = Manifest("mobilenet", NetworkInput("image", 224, 224), taps, (), classes=("background", *names))
    resolved = resolve_class_ids(labelled.images, manifest)
    assert resolved.class_ids.tolist() == [
        image.class_id + 1 for image in labelled.images if image.class_id is not None
    ]
