from __future__ import annotations

import os
from pathlib import Path

import pytest

from pc_engine.errors import ImageError
from pc_engine.sources import image_stem, read_image


def test_a_file_is_found_by_the_name_that_a_run_directory_stores(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"coffee")
    (tmp_path / r"\xe9.jpg").write_bytes(b"literally")
    assert read_image(f"{tmp_path}/caf\\xe9.jpg") == b"coffee"
    assert read_image(f"{tmp_path}/\\xe9.jpg") == b"literally"


@pytest.mark.parametrize("name", ["gone.jpg", r"gone\xe9.jpg", "a\0b", "", "/"])
def test_what_is_not_there_is_an_error_of_the_image(name: str) -> None:
    with pytest.raises(ImageError):
        read_image(name)


def test_a_file_named_like_an_address_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("memory:").mkdir()
    Path("memory:/a.jpg").write_bytes(b"file")
    assert read_image("memory://a.jpg") == b"file"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("photos/a.b.jpg", "a.b"),
        ("a.jpg", "a"),
        ("s3://bucket/photos/a.jpg", "a"),
        ("https://host/a.jpg?name=/b.png&signature=x", "a"),
        ("tar://sub/a.jpg::photos/shard.tar", "a"),
        ("tar://../a\0\n?.jpg::shard.tar", "a___"),
        ("zip://a.jpg::https://host/b.zip", "a"),
        ("data/train.parquet#12", "train-12"),
        ("https://host/train.parquet?x=y#12", "train-12"),
        ("photos/📷 1.jpg", "📷 1"),
        (r"photos/a\b:c.jpg", "a_b_c"),
    ],
)
def test_stems(name: str, stem: str) -> None:
    assert image_stem(name) == stem
