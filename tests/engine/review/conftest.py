"""A run under review: three photos and one that failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result, error_result
from pc_engine.runs.writers import PartitionWriter


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one photo with an ellipse, one with a box, one that is gone, and one that failed."""
    photos, directory = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    directory.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (400, 300), colour).save(photos / f"{name}.png")
    (photos / "broken.jpg").write_bytes(b"no picture")

    def counted(name: str, mode: str, *pointers: EllipsePointer | BoxPointer) -> Result:
        return Result(str(photos / name), "ok", None, 400, 300, mode, "tiny", 1, "1", pointers=pointers)

    with PartitionWriter(directory, "jsonl") as writer:
        writer.write(counted("a.png", "c2p", EllipsePointer(100.0, 100.0, 20.0, 30.0, 1.0)))
        writer.write(counted("b.png", "c2p", BoxPointer(10.0, 20.0, 110.0, 120.0, 0.5)))
        writer.write(counted("gone.png", "c2p"))
        writer.write(error_result(str(photos / "broken.jpg"), "It is not an image.", mode="c2p", model="tiny"))
    return directory
