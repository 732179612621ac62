from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pc_engine.errors import ImageError
from pc_engine.sources import SourceImage, as_source_image, read_image
from pc_engine.sources.image import broken_image, local_image


def test_a_path_becomes_the_image_in_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"bytes")
    image = as_source_image(tmp_path / "a.jpg")
    assert image.name == str(tmp_path / "a.jpg")
    assert image.read() == read_image(image.name) == b"bytes"


def test_an_image_stays_as_it_is() -> None:
    image = SourceImage("s3://bucket/a.jpg", lambda: b"")
    assert as_source_image(image) is image


def test_nothing_is_read_before_its_turn(tmp_path: Path) -> None:
    image = local_image(tmp_path / "later.jpg")
    (tmp_path / "later.jpg").write_bytes(b"there now")
    assert image.read() == b"there now"


def test_images_go_to_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"bytes")
    assert pickle.loads(pickle.dumps(local_image(tmp_path / "a.jpg"))).read() == b"bytes"


def test_what_cannot_be_listed_says_why_when_it_is_read() -> None:
    image = broken_image("shard.tar", "It broke off.")
    assert image.name == "shard.tar"
    with pytest.raises(ImageError, match="It broke off"):
        image.read()
