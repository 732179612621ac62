from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pc_engine.bench.accuracy.saliency import count_salient, saliency_map, salient_boxes


def picture_of(n: int) -> np.ndarray:
    """A grey ground with ``n`` bright squares."""
    picture = np.full((96, 128), 90.0)
    for x, y in [(16, 16), (88, 20)][:n]:
        picture[y : y + 14, x : x + 18] = 220
    return picture


@pytest.mark.parametrize("n", [1, 2])
def test_bright_objects_on_an_even_ground_are_counted_and_pointed_at(tmp_path: Path, n: int) -> None:
    Image.fromarray(picture_of(n).astype(np.uint8)).save(tmp_path / "a.png")
    (row,) = count_salient([tmp_path / "a.png"], workers=1)
    assert (row.count, row.width, row.height) == (n, 128, 96)
    centres = sorted(pointer.centre for pointer in row.pointers)
    expected = sorted([(25.0, 23.0), (97.0, 27.0)][:n])
    np.testing.assert_allclose(centres, expected, atol=5)
    assert sum(pointer.score for pointer in row.pointers) == pytest.approx(1)


def test_a_picture_without_contrast_shows_nothing(tmp_path: Path) -> None:
    assert not saliency_map(np.full((64, 64), 7.0)).any()
    assert salient_boxes(np.zeros((64, 64))) == []


def test_specks_do_not_count_and_neighbours_at_corners_are_one() -> None:
    saliency = np.zeros((64, 64))
    saliency[0:2, 0:2] = 1
    assert salient_boxes(saliency) == []
    saliency[10:18, 10:18] = 1
    saliency[18:26, 18:26] = 1
    ((x0, y0, x1, y1, score),) = salient_boxes(saliency)
    assert (x0, y0, x1, y1, score) == (10 / 64, 10 / 64, 26 / 64, 26 / 64, 1)


def test_an_unreadable_image_has_its_row_and_all_are_announced(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    Image.fromarray(picture_of(2).astype(np.uint8)).save(tmp_path / "a.png")
    steps: list[int] = []
    rows = count_salient([tmp_path / "broken.jpg", tmp_path / "a.png"], 2, steps.append)
    assert [row.ok for row in rows] == [False, True]
    assert rows[0].error
    assert steps == [1, 1]
