from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.errors import ImageError
from pc_engine.review.pictures import Pictures
from pc_engine.runs.photos import RunPhotos


class CountedPhotos(RunPhotos):
    """Counts how often photos are read, and how many at once."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.n_read = self.n_now = self.most_at_once = 0
        self.lock = threading.Lock()

    def read(self, path: str) -> bytes:
        with self.lock:
            self.n_read += 1
            self.n_now += 1
            self.most_at_once = max(self.most_at_once, self.n_now)
        try:
            return super().read(path)
        finally:
            with self.lock:
                self.n_now -= 1


@pytest.fixture
def photos(tmp_path: Path) -> CountedPhotos:
    for n in range(8):
        Image.new("RGB", (2000, 1000), (n, 0, 0)).save(tmp_path / f"{n}.png")
    return CountedPhotos(tmp_path)


def path_of(tmp_path: Path, n: int) -> str:
    return str(tmp_path / f"{n}.png")


def test_a_picture_is_made_once_for_each_size(photos: CountedPhotos, tmp_path: Path) -> None:
    pictures = Pictures(photos, workers=2)
    for _ in range(2):
        for size, longest in (("thumbnail", 320), ("photo", 1600)):
            with Image.open(io.BytesIO(pictures.get(path_of(tmp_path, 0), size))) as picture:
                assert (picture.format, picture.size) == ("WEBP", (longest, longest // 2))
    assert photos.n_read == 2


def test_the_pictures_kept_are_bounded_and_the_oldest_go_first(photos: CountedPhotos, tmp_path: Path) -> None:
    pictures = Pictures(photos, workers=2)
    size = len(pictures.get(path_of(tmp_path, 0), "thumbnail"))
    pictures = Pictures(photos, workers=2, bytes_kept=3 * size + size // 2)
    for n in (0, 1, 2, 0, 3):  # 1 is the oldest when 3 comes
        pictures.get(path_of(tmp_path, n), "thumbnail")
    before = photos.n_read
    for n in (0, 2, 3):
        pictures.get(path_of(tmp_path, n), "thumbnail")
    assert photos.n_read == before
    pictures.get(path_of(tmp_path, 1), "thumbnail")
    assert photos.n_read == before + 1


def test_no_more_are_made_at_once_than_there_are_workers(photos: CountedPhotos, tmp_path: Path) -> None:
    pictures = Pictures(photos, workers=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: pictures.get(path_of(tmp_path, n), "thumbnail"), range(8)))
    assert photos.most_at_once <= 2


def test_what_cannot_be_shown_is_said_every_time(photos: CountedPhotos, tmp_path: Path) -> None:
    pictures = Pictures(photos, workers=1)
    for _ in range(2):
        with pytest.raises(ImageError, match="cannot be read"):
            pictures.get(path_of(tmp_path, 99), "thumbnail")
