from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.decoding.browser_formats import is_shown, is_shown_upright


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.jpg", True),
        ("a.AVIF", True),
        ("a.webp", True),
        ("a", True),
        ("a.HEIC", False),
        ("b/a.hif", False),
        ("a.jp2", False),
    ],
)
def test_formats_are_told_by_their_endings(name: str, shown: bool, tmp_path: Path) -> None:
    assert is_shown(name) is shown
    assert is_shown_upright(tmp_path / name) is shown  # there is no such file


def test_formats_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "picture.jpg").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif")
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "scan.png", "TIFF")
    picture.save(tmp_path / "plain.heic", "PNG")
    picture.save(tmp_path / "film.png", "JPEG2000")
    picture.save(tmp_path / "plain-text.png", "PPM")
    picture.save(tmp_path / "large.png", "TIFF", big_tiff=True)
    (tmp_path / "empty.jpg").touch()
    shown = {file.stem: is_shown_upright(file) for file in tmp_path.iterdir()}
    hidden = {"photo", "scan", "film", "plain-text", "large"}
    assert shown == {**dict.fromkeys(hidden, False), "picture": True, "plain": True, "empty": True}


def test_a_webp_with_exif_data_may_be_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "turned.webp", exif=exif)
    picture.save(tmp_path / "plain.webp")
    Image.new("RGBA", (8, 8)).save(tmp_path / "extended.webp")
    (tmp_path / "cut.webp").write_bytes((tmp_path / "turned.webp").read_bytes()[:20])
    (tmp_path / "folder.webp").mkdir()
    shown = {file.stem: is_shown_upright(file) for file in tmp_path.iterdir()}
    assert shown == {"turned": False, "plain": True, "extended": True, "cut": False, "folder": True}
    assert is_shown_upright(tmp_path / "\0.webp")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert is_shown_upright(tmp_path / "a.jpg")
