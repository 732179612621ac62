from __future__ import annotations

import numpy as np
import pytest

from pc_engine.backends.padding import pad_batch
from pc_engine.errors import UsageError


def test_a_short_batch_is_filled_with_black_images() -> None:
    images = np.full((2, 4, 5, 3), 7, np.uint8)
    padded = pad_batch(images, 5)
    assert (padded.shape, padded.dtype) == ((5, 4, 5, 3), np.uint8)
    np.testing.assert_array_equal(padded[:2], images)
    assert not padded[2:].any()


def test_a_full_batch_is_passed_on_uncopied() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    assert pad_batch(images, 3) is images


@pytest.mark.parametrize("n", [0, 4])
def test_a_batch_of_no_images_or_too_many_is_wrong_use(n: int) -> None:
    with pytest.raises(UsageError, match=f"A batch holds 1 to 3 images, got {n}"):
        pad_batch(np.zeros((n, 4, 4, 3), np.uint8), 3)
