from __future__ import annotations

from pathlib import Path

import pytest

from pc_engine.datasets import KNOWN_FORMS, LabelledImage, read_labelled
from pc_engine.errors import DataError
from pc_engine.result import Result
from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.writers import PartitionWriter


def test_one_subfolder_per_class(tmp_path: Path) -> None:
    for name in ("cat/1.JPG", "cat/more/2.png", "dog/3.webp", "dog/notes.txt", "dog/.DS_Store", ".git/4.jpg", "5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    labelled = read_labelled(str(tmp_path))
    assert labelled.name == tmp_path.name
    assert labelled.images == (
        LabelledImage(tmp_path / "cat/1.JPG", class_name="cat"),
        LabelledImage(tmp_path / "cat/more/2.png", class_name="cat"),
        LabelledImage(tmp_path / "dog/3.webp", class_name="dog"),
    )
    assert labelled.skipped == ((str(tmp_path / "dog/notes.txt"), "'.txt' is not the suffix of an image"),)


def test_copies_that_systems_keep_are_no_images_of_a_class(tmp_path: Path) -> None:
    for name in ("@eaDir/1.jpg/SYNO_THUMB.jpg", "#recycle/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="holds no labels of a known form"):
        read_labelled(str(tmp_path))
    for name in ("cat/1.jpg", "cat/.thumbnails/1.jpg", "cat/@eaDir/1.jpg/SYNO_THUMB.jpg", "cat/._1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    labelled = read_labelled(str(tmp_path))
    assert labelled.images == (LabelledImage(tmp_path / "cat/1.jpg", class_name="cat"),)
    assert labelled.skipped == ()


def test_folders_of_photos_that_are_not_read_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.nef").touch()
    with pytest.raises(DataError, match="holds no labels of a known form"):
        read_labelled(str(tmp_path))


@pytest.mark.parametrize("spec", ["kitti:here", "sos:", ""])
def test_an_unknown_form_is_answered_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_labelled(spec)
    if spec:  # else it is the current folder
        assert str(caught.value).startswith(f"'{spec}' is not a file, a folder or another form")
    for form in KNOWN_FORMS:
        assert form in str(caught.value)


def test_a_path_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(DataError) as caught:
        read_labelled("no/such.csv")
    assert str(caught.value) == "There is no file or folder 'no/such.csv': check its name."


def test_files_and_folders_without_labels_are_named(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataError, match="holds no labels of a known form"):
        read_labelled(str(tmp_path))
    with pytest.raises(DataError, match=r"is not a file of labels: these end in \.csv"):
        read_labelled(str(tmp_path / "photo.jpg"))
    (tmp_path / "table.CSV").touch()
    (tmp_path / "conversion.json").touch()  # which says what a conversion made
    with pytest.raises(DataError, match=r"has no labels\.json or labels\.csv: name .* such as .*/table\.CSV\.$"):
        read_labelled(str(tmp_path))
    with pytest.raises(DataError, match=r"has no labels.json: make one with 'pc-engine lego make'"):
        read_labelled(f"lego:{tmp_path}")


@pytest.mark.parametrize("name", ["counts.xlsx", "counts.XLS", "counts.ods"])
def test_a_workbook_is_to_be_saved_as_csv(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"is a workbook, which is not read: save it as CSV UTF-8, and name that file\.$"
    ):
        read_labelled(str(tmp_path / name))


def test_known_forms_have_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "tabs.txt").touch()
    with pytest.raises(DataError) as caught:
        read_labelled(str(tmp_path / "tabs.txt"))
    first, *forms = str(caught.value).splitlines()
    assert first.endswith("is not a file of labels: these end in .csv, .tsv, .json, .jsonl or .xml. Known forms:")
    assert forms == [f"  {form}" for form in KNOWN_FORMS]


def test_what_convert_made_is_read_by_its_folder_or_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "conversion.json").write_text("{}")
    (tmp_path / "data.yaml").touch()
    with pytest.raises(DataError, match=f"is the folder of a YOLO data set: write 'yolo:{tmp_path / 'data.yaml'}'"):
        read_labelled(str(tmp_path))
    (tmp_path / "counts.csv").write_text("path,count\na.jpg,1\n")
    assert read_labelled(str(tmp_path)).images == (LabelledImage(tmp_path / "a.jpg", count=1),)


def test_labels_json_goes_before_labels_csv(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "labels.csv").write_text("path,count\na.jpg,1\n")
    assert read_labelled(str(tmp_path)).images[0].count == 1
    (tmp_path / "labels.json").write_text('{"images": [{"file": "a.jpg", "count": 2}]}')
    assert read_labelled(str(tmp_path)).images[0].count == 2


def test_a_folder_of_labelled_folders_is_one_set(tmp_path: Path) -> None:
    for name, labels in (("b", '"count": 2, "class_id": 7'), ("a", '"count": 1'), ("a/deeper", '"count": 9')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
        images = f'{{"file": "1.jpg", {labels}}}, {{"file": "gone.jpg"}}'
        (tmp_path / name / "labels.json").write_text(f'{{"images": [{images}]}}')
    (tmp_path / "unlabelled").mkdir()
    labelled = read_labelled(str(tmp_path))
    assert labelled.name == tmp_path.name
    assert labelled.images == (
        LabelledImage(tmp_path / "a/1.jpg", count=1),
        LabelledImage(tmp_path / "b/1.jpg", count=2),
    )
    assert [Path(item).parent.name for item, _ in labelled.skipped] == ["a", "b"]


def test_the_folder_of_a_run_is_no_folder_of_classes_but_read_for_what_was_reviewed(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/a.jpg").touch()
    (tmp_path / "photo.jpg").touch()
    with PartitionWriter(tmp_path, "parquet") as writer:
        writer.write(Result(str(tmp_path / "photo.jpg"), "ok", None, 8, 8, "c2p", "tiny", 2, "2"))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(DataError, match="has been reviewed yet: do that with 'pc-engine review "):
        read_labelled(str(tmp_path))
    append_correction(tmp_path, Correction(str(tmp_path / "photo.jpg"), 5, (), "2026-01-02T03:04:05+00:00"))
    assert read_labelled(str(tmp_path)).images == read_labelled(f"run:{tmp_path}").images
    assert [image.count for image in read_labelled(str(tmp_path)).images] == [5]


def test_a_run_may_have_its_rows_beside_folders_of_classes(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg", "overlays/a.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "run.json").write_text("{}")
    assert [image.class_name for image in read_labelled(str(tmp_path)).images] == ["cat", "dog"]
