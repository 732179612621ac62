from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def load(path: Path):
    """The file as pycocotools reads it."""
    reader = pytest.importorskip("pycocotools.coco", reason="pycocotools reads COCO files here")
    return reader.COCO(path)


def test_pycocotools_reads_points_with_their_boxes(two_modes, save, tmp_path) -> None:
    conversion = save(two_modes.ellipses, "coco", tmp_path / "run.json")
    coco = load(tmp_path / "run.json")
    assert coco.getImgIds() == [1, 2]
    images = [{"id": 1, "file_name": "a.jpg", "count": 2}, {"id": 2, "file_name": "b/a.jpg", "count": 0}]
    assert coco.loadImgs([1, 2]) == [
        {**image, "width": 64, "height": 48, "count_label": str(image["count"]), "reviewed": False} for image in images
    ]
    assert coco.loadCats(coco.getCatIds()) == [
        {"id": 1, "name": "object", "supercategory": "object", "keypoints": ["point"], "skeleton": []}
    ]
    shared = {"image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 1}
    assert coco.loadAnns(coco.getAnnIds()) == [
        {"id": 1, "bbox": [15.25, 6.5, 10, 8], "area": 80, "score": 0.75, "keypoints": [20.25, 10.5, 2], **shared},
        # The second ellipse reaches beyond the picture.
        {"id": 2, "bbox": [20, 37.5, 44, 5], "area": 220, "score": 0.25, "keypoints": [50, 40, 2], **shared},
    ]
    assert (conversion.images, conversion.pointers, sum(conversion.left_out.values())) == (2, 2, 1)


def test_pycocotools_finds_the_boxes_of_a_class(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "coco", tmp_path / "run.json")
    coco = load(tmp_path / "run.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [
        *("goldfish, Carassius auratus", "crane", 'bell "cote" & <co>')
    ]
    goldfish = coco.getCatIds(catNms=["goldfish, Carassius auratus"])
    assert coco.getImgIds(catIds=goldfish) == [1]
    boxes = [item["bbox"] for item in coco.loadAnns(coco.getAnnIds(catIds=goldfish))]
    assert boxes == [[0, 1, 15.5, 19.25], [30, 30, 34, 18]]
    assert not any("keypoints" in item for item in (*coco.dataset["annotations"], *coco.dataset["categories"]))


def test_its_results_are_ones_that_pycocotools_evaluates(two_modes, save, tmp_path) -> None:
    """The file as ground truth, its own annotations as detections: nothing is missed and nothing too much."""
    save(two_modes.ellipses, "coco", tmp_path / "run.json")
    evaluation = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools evaluates COCO results here")
    truth = load(tmp_path / "run.json")
    results = [{**item, "bbox": list(item["bbox"])} for item in truth.loadAnns(truth.getAnnIds())]
    judged = evaluation.COCOeval(truth, truth.loadRes(results), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == pytest.approx(1)


def test_where_there_are_points_a_box_has_none_of_its_own(make_row, two_modes, save, tmp_path) -> None:
    rows = [two_modes.ellipses[0], two_modes.boxes[0]]
    save(rows, "coco", tmp_path / "run.json")
    annotations = json.loads((tmp_path / "run.json").read_text())["annotations"]
    assert [(item["num_keypoints"], len(item["keypoints"])) for item in annotations] == [(1, 3), (1, 3), (0, 3), (0, 3)]


def test_a_run_without_pointers_is_a_file_without_annotations(make_row, save, tmp_path) -> None:
    save([make_row("a.jpg")], "coco", tmp_path / "run.json")
    coco = load(tmp_path / "run.json")
    assert (coco.getImgIds(), coco.getAnnIds()) == ([1], [])


def test_what_a_person_reviewed_is_marked(make_row, save, tmp_path) -> None:
    save([make_row("a.jpg"), make_row("b.jpg", reviewed=True)], "coco", tmp_path / "run.json")
    images = json.loads((tmp_path / "run.json").read_text())["images"]
    assert [image["reviewed"] for image in images] == [False, True]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("kind", ["ellipse", "box"])
def test_supervision_reads_the_boxes_that_were_written(
    kind, data, random_rows, save, corners, label, tmp_path_factory
) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision reads COCO files here")
    folder = tmp_path_factory.mktemp("coco")
    rows = data.draw(random_rows(kind))
    save(rows, "coco", folder / "run.json", relative_to="photos")
    dataset = supervision.DetectionDataset.from_coco(
        images_directory_path=str(folder / "photos"), annotations_path=str(folder / "run.json")
    )
    for row in rows:
        found = dataset.annotations[str(folder / row["path"])]
        expected = corners(row)
        assert found.xyxy.shape == expected.shape
        assert np.abs(found.xyxy - expected).max(initial=0) < 0.5
        assert {dataset.classes[k] for k in found.class_id} <= {label(row, rows)}
