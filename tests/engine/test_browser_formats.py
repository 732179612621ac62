from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pc_engine.browser_formats import is_shown, is_shown_upright


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a.jpg", True), ("a.AVIF", True), ("a.webp", True), ("a", True), ("a.HEIC", False), ("b/a.hif", False)],
)
def test_formats_are_told_by_their_endings(name: str, shown: bool, tmp_path: Path) -> None:
    assert is_shown(name) is shown
    assert is_shown_upright(tmp_path / name) is shown


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
    assert shown == {"turned": False, "plain": True, "extended": True, "cut": True, "folder": True}
    assert is_shown_upright(tmp_path / "\0.webp")
