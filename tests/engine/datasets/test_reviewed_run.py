from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pc_engine.datasets import LabelledImage, read_labelled
from pc_engine.errors import DataError, UsageError
from pc_engine.result import Result
from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.writers import PartitionWriter

ROW = Result("photos/a.jpg", "ok", None, 64, 64, "c2p", "tiny", count=1, count_label="1")
WHEN = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run over photos beside it, which was started in the folder of both."""
    for name in ("a", "b", "c"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{name}.jpg").touch()
    (tmp_path / "run").mkdir()
    with PartitionWriter(tmp_path / "run") as writer:
        for path in ("photos/a.jpg", "photos/b.jpg", "photos/c.jpg", "photos/gone.jpg", "tar://d.jpg::shard.tar"):
            writer.write(replace(ROW, path=path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def review(run: Path, path: str, count: int) -> None:
    append_correction(run, Correction(path, count, (), WHEN))


def test_the_reviewed_images_are_labelled_with_their_corrected_counts(run: Path) -> None:
    review(run, "photos/b.jpg", 7)
    review(run, "photos/a.jpg", 0)
    review(run, "photos/gone.jpg", 1)
    review(run, "tar://d.jpg::shard.tar", 1)
    labelled = read_labelled(f"run:{run}")
    assert labelled.name == "run"
    assert labelled.images == (
        LabelledImage(Path.cwd() / "photos" / "a.jpg", 0),
        LabelledImage(Path.cwd() / "photos" / "b.jpg", 7),
    )
    assert [reason.split(":")[0] for _, reason in labelled.skipped] == [
        "there is no such file (if the photos have moved",
        "it is in an archive",
    ]


def test_photos_of_an_archive_are_found_where_it_was_unpacked(run: Path) -> None:
    review(run, "tar://d.jpg::shard.tar", 4)
    with pytest.raises(DataError, match=r"it is in an archive: unpack that, and say where as 'run:.*/run@PHOTOS_DIR'"):
        read_labelled(f"run:{run}")
    folder = run.parent / "unpacked"
    folder.mkdir()
    with pytest.raises(DataError, match=r"it is not in .*unpacked: unpack its archive to a folder shard in there"):
        read_labelled(f"run:{run}@{folder}")
    (folder / "d.jpg").touch()
    assert read_labelled(f"run:{run}@{folder}").images == (LabelledImage(folder / "d.jpg", 4),)
    (folder / "shard").mkdir()
    (folder / "d.jpg").rename(folder / "shard/d.jpg")
    assert read_labelled(f"run:{run}@{folder}").images == (LabelledImage(folder / "shard/d.jpg", 4),)


@pytest.mark.parametrize("path", ["https://host/a.jpg", "rows.parquet#1", "zip://a.jpg::tar://z.zip::s.tar"])
def test_what_is_no_file_of_its_own_is_to_be_copied_before_it_is_reviewed(run: Path, path: str) -> None:
    with PartitionWriter(run, first=1) as writer:
        writer.write(replace(ROW, path=path))
    review(run, path, 4)
    with pytest.raises(DataError, match="run on copies of the photos in a folder, and review that run"):
        read_labelled(f"run:{run}@{run.parent}")


def test_the_photos_are_found_from_another_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    review(run, "photos/c.jpg", 3)
    (run / "elsewhere").mkdir()
    monkeypatch.chdir(run / "elsewhere")
    assert read_labelled(f"run:{run}").images == (LabelledImage(run.parent / "photos" / "c.jpg", 3),)


@pytest.mark.parametrize("name", ["now", "me@host", "2 @ home/a@b"])
def test_the_photos_are_found_where_they_lie_now(run: Path, name: str) -> None:
    review(run, "photos/c.jpg", 3)
    (run.parent / name).mkdir(parents=True)
    moved = (run.parent / "photos").rename(run.parent / name / "photos")
    with pytest.raises(DataError, match=r"there is no such file \(if the photos have moved: 'run:.*/run@PHOTOS_DIR'\)"):
        read_labelled(f"run:{run}")
    assert read_labelled(f"run:{run}@{moved.parent}").images == (LabelledImage(moved / "c.jpg", 3),)
    run = run.rename(run.parent / "run@2")
    assert read_labelled(f"run:{run}@{moved.parent}").images == (LabelledImage(moved / "c.jpg", 3),)


def test_what_to_do_is_said_where_nothing_was_reviewed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No image of .* has been reviewed yet: do that with 'pc-engine review"):
        read_labelled(f"run:{run}")
    with pytest.raises(DataError, match="There is no folder"):
        read_labelled(f"run:{tmp_path / 'absent'}")
    with pytest.raises(UsageError, match="holds no rows"):
        read_labelled(f"run:{tmp_path / 'photos'}")
