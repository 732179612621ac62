from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from pc_engine.datasets import read_labelled, resolve_class_ids
from pc_engine.manifest import Manifest, NetworkInput, Tap

DATA = Path(os.environ.get("PC_ENGINE_TEST_DATA", "../shared/data"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not DATA.is_dir(), reason="the real photos are absent; name their folder in PC_ENGINE_TEST_DATA"
    ),
]


@pytest.mark.parametrize(
    ("name", "by_count"),
    [("coco", [5, 361, 119, 39, 26, 121]), ("fruit", [0, 188, 46, 34, 19, 13])],
)
def test_counts_of_photos_with_boxes(name: str, by_count: list[int]) -> None:
    labelled = read_labelled(str(DATA / name))
    assert labelled.skipped == ()
    counts = Counter(min(image.count, 5) for image in labelled.images if image.count is not None)
    assert [counts[count] for count in range(6)] == by_count


def test_the_dominant_class_found_from_the_boxes_is_the_labelled_one(tmp_path: Path) -> None:
    raw = json.loads((DATA / "coco/labels.json").read_text())
    labelled = {image.path.name: image for image in read_labelled(str(DATA / "coco")).images}
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
    images = read_labelled(f"coco:{tmp_path / 'instances.json'}@{DATA / 'coco'}").images
    assert len(images) == 671
    for image in images:
        assert image.class_name == labelled[image.path.name].class_name
        assert image.boxes == labelled[image.path.name].boxes
        assert image.count in (None, labelled[image.path.name].count)


def test_imagenet_names_find_their_logits_behind_a_background_class() -> None:
    labelled = read_labelled(str(DATA / "imagenet1k_sample"))
    assert len(labelled.images) == 1000
    names = [str(image.class_name) for image in labelled.images]
    taps = {"conv_last": Tap("c", (8, 7, 7)), "logits": Tap("l", (1001,))}
    manifest = Manifest("mobilenet", NetworkInput("image", 224, 224), taps, (), classes=("background", *names))
    resolved = resolve_class_ids(labelled.images, manifest)
    assert resolved.class_ids.tolist() == [
        image.class_id + 1 for image in labelled.images if image.class_id is not None
    ]
