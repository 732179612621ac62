from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pc_engine.datasets import Box, clip_to_frame, read_labelled
from pc_engine.errors import DataError

RLE = {"counts": [5, 2, 3, 2, 4], "size": [4, 4]}
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def annotation(image_id: int, category: int, bbox: list[float], crowd: int = 0) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category, "bbox": bbox, "iscrowd": crowd, "area": 1}


def write(path: Path, n_images: int, annotations: list[Any], images: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"id": 10 + i, "file_name": f"{i}.jpg"} for i in range(n_images)]
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": CATEGORIES}))
    if images is not None:
        images.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            (images / str(entry["file_name"])).touch()
    return path


def test_the_class_of_the_largest_summed_area_is_counted(tmp_path: Path) -> None:
    annotations = [
        annotation(10, 1, [0, 0, 10, 10]),
        annotation(10, 18, [0, 0, 8, 8]),
        annotation(10, 18, [5, 6, 8, 8]),
        annotation(10, 1, [0, 0, 100, 100], crowd=1),
    ]
    path = write(tmp_path / "instances.json", 2, annotations, tmp_path)
    first, second = read_labelled(f"coco:{path}").images
    assert (first.class_name, first.count, len(first.boxes)) == ("dog", 2, 3)
    assert first.boxes[2] == Box(5, 6, 13, 14, "dog")
    assert first.crowds == (Box(0, 0, 100, 100, "person"),)
    assert (second.class_name, second.count, second.boxes) == (None, 0, ())
    assert read_labelled(str(path)).images == (first, second)


def test_a_crowd_of_the_dominant_class_leaves_the_count_open(tmp_path: Path) -> None:
    annotations = [
        annotation(10, 1, [0, 0, 10, 10]),
        annotation(10, 1, [0, 0, 100, 100], crowd=1),
        annotation(11, 1, [0, 0, 100, 100], crowd=1),
    ]
    path = write(tmp_path / "instances.json", 2, annotations, tmp_path)
    images = read_labelled(f"coco:{path}").images
    assert [(image.class_name, image.count, len(image.boxes)) for image in images] == [
        ("person", None, 1),
        (None, None, 0),
    ]


def test_an_annotation_without_a_box_has_that_around_its_outlines(tmp_path: Path) -> None:
    outlined = {"image_id": 10, "category_id": 18, "segmentation": [[3, 4, 9, 4, 9, 8], [1, 6, 2, 6, 2, 7]]}
    annotations = [outlined, {**outlined, "segmentation": RLE, "image_id": 11}]
    annotations.append({**outlined, "segmentation": [[1, 2, 3]], "image_id": 12})
    labelled = read_labelled(f"coco:{write(tmp_path / 'instances.json', 3, annotations, tmp_path)}")
    assert [image.boxes for image in labelled.images] == [(Box(1, 4, 9, 8, "dog"),)]
    assert [reason for _, reason in labelled.skipped] == [
        "an annotation has no bbox, and boxes are not read from RLE: add bbox, as by mask.toBbox of pycocotools",
        "its segmentation [[1, 2, 3]] is not a list of outlines x y x y ...",
    ]


@pytest.mark.parametrize("crowd", [{"segmentation": RLE}, {"segmentation": RLE, "bbox": []}, {}])
def test_a_crowd_without_a_box_costs_no_more_than_another(tmp_path: Path, crowd: dict[str, Any]) -> None:
    dogs = [annotation(image, 18, [0, 0, 8, 8]) for image in (10, 11)]
    crowds = [
        {"image_id": image, "category_id": category, "iscrowd": 1, **crowd}
        for image, category in ((10, 1), (11, 18), (12, 1))
    ]
    labelled = read_labelled(f"coco:{write(tmp_path / 'instances.json', 3, [*dogs, *crowds], tmp_path)}")
    assert [(image.class_name, image.count, len(image.boxes)) for image in labelled.images] == [
        ("dog", 1, 1),
        ("dog", None, 1),
        (None, None, 0),
    ]
    # It may be anywhere.
    (whole,), cut, outside = clip_to_frame(labelled.images[0].crowds, 640, 480)
    assert (whole, cut, outside) == (Box(0, 0, 640, 480, "person"), 1, 0)
    assert labelled.skipped == ()


def test_annotations_of_no_image_and_ids_of_several_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "instances.json", 3, [annotation(10, 18, [0, 0, 9, 9])] * 2, tmp_path)
    raw = json.loads(path.read_text())
    # As files that were joined without new ids have them; and a number that became text.
    raw["images"][1]["id"] = 10
    raw["annotations"].append({**annotation(0, 18, [0, 0, 9, 9]), "image_id": "12"})
    path.write_text(json.dumps(raw))
    labelled = read_labelled(f"coco:{path}")
    assert [(image.path.name, image.count) for image in labelled.images] == [("2.jpg", 0)]
    shared = "other images have its id 10, too, so it is not known what it shows"
    assert labelled.skipped == (
        ("1 annotation", "no image has the id that they name"),
        *(("0.jpg", shared), ("1.jpg", shared)),
    )


def test_what_a_run_counted_and_nobody_reviewed_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "instances.json", 3, [annotation(10, 18, [0, 0, 9, 9])], tmp_path)
    raw = json.loads(path.read_text())
    for entry, reviewed in zip(raw["images"], (False, True), strict=False):
        entry["reviewed"] = reviewed
    path.write_text(json.dumps(raw))
    assert read_labelled(f"coco:{path}").by_run == 1


def test_where_no_annotation_is_of_an_image_none_shows_nothing(tmp_path: Path) -> None:
    strayed = [{**annotation(10, 18, [0, 0, 9, 9]), "image_id": image} for image in ("10", "11")]
    path = write(tmp_path / "instances.json", 2, strayed, tmp_path)
    with pytest.raises(DataError, match=r"None of the 2 annotations of .* has the id of one of its images: write"):
        read_labelled(f"coco:{path}")
    # Of images that the file leaves out: these show nothing.
    strayed = [{**annotation(10, 18, [0, 0, 9, 9]), "image_id": 99}]
    path = write(tmp_path / "instances.json", 2, strayed, tmp_path)
    assert [image.count for image in read_labelled(f"coco:{path}").images] == [0, 0]


@pytest.mark.parametrize("folder", ["annotations", "images", "val2017", "images/val2017"])
def test_the_images_are_found_where_people_keep_them(tmp_path: Path, folder: str) -> None:
    path = write(tmp_path / "annotations" / "instances_val2017.json", 1, [], tmp_path / folder)
    assert read_labelled(f"coco:{path}").images[0].path == tmp_path / folder / "0.jpg"


def test_the_images_folder_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a@b" / "instances.json", 1, [], tmp_path / "photos")
    (tmp_path / "c@d").mkdir()
    (tmp_path / "c@d" / "photos").symlink_to(tmp_path / "photos")
    with pytest.raises(DataError, match=r"name their folder as coco:.*instances.json@IMAGES_DIR"):
        read_labelled(f"coco:{path}")
    for folder in (tmp_path / "photos", tmp_path / "c@d" / "photos"):
        assert len(read_labelled(f"coco:{path}@{folder}").images) == 1
    with pytest.raises(DataError, match=r"images folder .*nowhere .* does not exist"):
        read_labelled(f"coco:{path}@{tmp_path / 'nowhere'}")


def test_bad_entries_are_skipped(tmp_path: Path) -> None:
    annotations = [annotation(10, 7, [0, 0, 1, 1]), annotation(11, 1, [0, 0, 1]), annotation(12, 1, [3, 3, 0, 9]), "x"]
    path = write(tmp_path / "instances.json", 4, annotations, tmp_path)
    (tmp_path / "3.jpg").unlink()
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "images": [*raw["images"], {"id": 9}, 5]}))
    labelled = read_labelled(f"coco:{path}")
    assert [(image.path.name, image.boxes) for image in labelled.images] == [("2.jpg", ())]
    reasons = [reason for _, reason in labelled.skipped]
    assert "category 7 is not among" in reasons[0]
    assert "not [x, y, width, height]" in reasons[1]
    assert "enclose no area" in reasons[2]
    assert reasons[3:] == ["there is no such file", "it has no file_name", "it has no file_name"]


def test_another_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read_labelled(f"coco:{tmp_path / 'none.json'}")
    (tmp_path / "other.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="lacks the lists images, annotations and categories"):
        read_labelled(f"coco:{tmp_path / 'other.json'}")


def test_folders_that_were_looked_in_are_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("c.coco"), 1, [])
    with pytest.raises(
        DataError, match=r"are in none of \., images, img, c, images/c: name their folder as coco:c\.coco@"
    ):
        read_labelled("coco:c.coco")
