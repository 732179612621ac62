from __future__ import annotations

import re
from pathlib import Path

import pytest

from pc_engine.runs.drawn_pictures import picture_name, remove_pictures, undrawn_picture


@pytest.mark.parametrize("image", ["a/beach.jpg", "b/" + "ä" * 200 + ".png", "a\nb.png", "-.png", "s.tar#x/y.jpg"])
def test_what_a_run_drew_is_removed_and_nothing_else(tmp_path: Path, image: str) -> None:
    folder = tmp_path / "overlays"
    folder.mkdir()
    (folder / picture_name(image)).touch()
    assert undrawn_picture(tmp_path) is None
    for name in ("mine.jpg", "IMG-0123.jpg", "notes.txt"):
        (folder / name).touch()
    assert undrawn_picture(tmp_path) == "IMG-0123.jpg"
    assert remove_pictures(tmp_path) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["IMG-0123.jpg", "mine.jpg", "notes.txt"]


def test_bytes_that_cannot_be_decoded_leave_names_that_windows_takes() -> None:
    assert re.fullmatch("caf__-[0-9a-f]{12}[.]jpg", picture_name("a/caf\udcc3\udce9.png"))


def test_the_folder_goes_with_the_last_picture(tmp_path: Path) -> None:
    assert remove_pictures(tmp_path) == 0
    (tmp_path / "overlays").mkdir()
    assert remove_pictures(tmp_path) == 0
    assert (tmp_path / "overlays").is_dir()  # it may be somebody's
    (tmp_path / "overlays" / picture_name("a.jpg")).touch()
    assert remove_pictures(tmp_path) == 1
    assert not (tmp_path / "overlays").exists()
