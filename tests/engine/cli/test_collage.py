import json

import pytest
from PIL import Image


@pytest.fixture
def boxed(tmp_path):
    """Ten photos with two objects each, and two entries that cannot be used."""
    folder = tmp_path / "photos"
    folder.mkdir()
    records = [{"file": "absent.png", "count": 1, "boxes": []}, {"file": "broken.png", "count": 1, "boxes": []}]
    (folder / "broken.png").write_bytes(b"no picture")
    for number in range(10):
        Image.new("RGB", (160, 120), (number, 0, 0)).save(folder / f"{number}.png")
        boxes = [{"c": "dog", "b": [x, 0, 40, 30]} for x in (0, 50)]
        records.append({"file": f"{number}.png", "dominant": "dog", "count": 2, "boxes": boxes})
    (folder / "labels.json").write_text(json.dumps({"set": "dogs", "images": records}))
    return folder


def test_collages_are_made_of_several_sets(pc_engine, boxed, tmp_path):
    options = ("--n", 12, "--seed", 4, "--size", 64, "--max-count", 2, "--groups", 2)
    outcome = pc_engine("collage", boxed, f"lego:{boxed}", tmp_path / "out", *options)
    assert outcome.code == 0, outcome.err
    assert "12 collages of 1 classes, made of 20 objects and 10 backgrounds" in outcome.out
    assert "absent.png" in outcome.out
    assert "broken.png" in outcome.out
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert labels["classes"] == ["dog"]
    assert {entry["w"] for entry in labels["images"]} == {64}
    assert max(entry["count"] for entry in labels["images"]) == 2
    assert len(list((tmp_path / "out").glob("*.png"))) == 12


def test_what_was_made_is_told_a_script(pc_engine, boxed, tmp_path):
    options = ("--n", 4, "--size", 64, "--max-count", 2, "--groups", 2)
    told = pc_engine("collage", boxed, tmp_path / "out", *options, "--json").json()
    assert told["labels"] == str(tmp_path / "out" / "labels.json")
    assert (told["collages"], told["classes"], told["objects"], told["backgrounds"]) == (4, ["dog"], 20, 10)
    assert {entry["item"].rpartition("/")[2] for entry in told["skipped"]} == {"absent.png", "broken.png"}


def test_what_was_made_can_be_evaluated_in_folds(pc_engine, boxed, tmp_path, tiny_directory):
    made = pc_engine(
        "collage", boxed, tmp_path / "out", "--n", 30, "--size", 64, "--max-count", 2, "--groups", 2, "--quiet"
    )
    assert (made.code, made.out) == (0, "")
    fast = ("--backend", "onnxruntime", "--precision", "fp32")
    report = pc_engine("evaluate", tmp_path / "out", "--model", tiny_directory, "--folds", 2, "--json", *fast).json()
    assert (report["n"], report["folds"]["groups"]) == (30, 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--max-count", 50), "too few for collages of 50"),
        (("--min-scale", 0.5), "the smaller one first"),
        (("--n", 1), "at least one per group"),
        (("--groups", 30), "name more photos"),
    ],
)
def test_wrong_use_is_one_sentence(pc_engine, boxed, tmp_path, options, expected):
    outcome = pc_engine("collage", boxed, tmp_path / "out", "--size", 64, *options)
    assert outcome.code == 2
    assert expected in outcome.err
    assert "Traceback" not in outcome.err


def test_a_folder_with_pictures_is_left_alone(pc_engine, boxed):
    before = {path.name: path.read_bytes() for path in boxed.iterdir()}
    for command in (("collage", boxed, boxed), ("lego", "make", boxed, "--n", 3)):
        outcome = pc_engine(*command)
        assert outcome.code == 2
        assert f"{boxed} exists and is not empty" in outcome.err
    assert {path.name: path.read_bytes() for path in boxed.iterdir()} == before
