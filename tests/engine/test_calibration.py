from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pc_engine.calibration import MIN_IMAGES, read_calibration_images
from pc_engine.errors import DataError, UsageError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty pictures, each of one grey of its own, in two folders."""
    for index in range(30):
        folder = tmp_path / "photos" / ("a" if index < 10 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (index, index, index)).save(folder / f"{index}.png")
    return tmp_path / "photos"


def _greys(images: np.ndarray) -> list[int]:
    assert (images == images[:, :1, :1, :1]).all()
    return [int(image[0, 0, 0]) for image in images]


def test_every_image_is_used_or_held_out_and_none_is_both(photos: Path) -> None:
    found = read_calibration_images([str(photos)], 8, 6, limit=100, workers=2)
    assert found.used.shape == found.held_out.shape == (15, 8, 6, 3)
    assert found.used.dtype == np.uint8
    assert sorted(_greys(found.used) + _greys(found.held_out)) == list(range(30))
    assert found.unreadable == 0


def test_a_sample_is_the_same_each_time_and_from_the_whole_listing(photos: Path) -> None:
    first, again = (read_calibration_images([str(photos)], 8, 8, limit=12, workers=w) for w in (1, 3))
    np.testing.assert_array_equal(first.used, again.used)
    greys = _greys(first.used) + _greys(first.held_out)
    assert len(set(greys)) == 12
    assert min(greys) < 10
    assert max(greys) >= 20


def test_a_copy_of_a_photo_is_not_held_out_from_itself(photos: Path) -> None:
    for path in [*photos.rglob("*.png")]:
        path.with_name(f"{path.stem}-copy.png").write_bytes(path.read_bytes())
    found = read_calibration_images([str(photos)], 8, 8, limit=100, workers=2)
    assert sorted(_greys(found.used) + _greys(found.held_out)) == list(range(30))
    assert found.unreadable == 0


def test_to_compare_only_all_are_held_out(photos: Path) -> None:
    found = read_calibration_images([str(photos)], 8, 8, limit=100, workers=2, compare_only=True)
    assert (len(found.used), len(found.held_out)) == (0, 30)


def test_files_that_cannot_be_read_are_left_out_and_counted(photos: Path) -> None:
    (photos / "a" / "broken.jpg").write_bytes(b"no picture")
    found = read_calibration_images([str(photos)], 8, 8, limit=100, workers=2)
    assert found.unreadable == 1
    assert len(found.used) + len(found.held_out) == 30


def test_several_sources_count_together(photos: Path) -> None:
    sources = [str(photos / "a"), str(photos / "b" / "1*.png")]
    found = read_calibration_images(sources, 8, 8, limit=100, workers=2)
    assert sorted(_greys(found.used) + _greys(found.held_out)) == list(range(20))


def test_too_few_images_are_said_with_the_number_that_is_needed(photos: Path) -> None:
    for index in (10, 11):
        (photos / "b" / f"{index}.png").write_bytes(b"broken")
    sources = [str(photos / "b" / "1*.png"), str(photos / "a" / "1.png")]
    with pytest.raises(DataError, match=rf"Only 9 images can be read from .*/1\*\.png, .* at least {MIN_IMAGES}"):
        read_calibration_images(sources, 8, 8, limit=50, workers=1)
    with pytest.raises(UsageError, match="nowhere"):
        read_calibration_images(["nowhere"], 8, 8, limit=50, workers=1)
