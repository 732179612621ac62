from __future__ import annotations

import numpy as np
import pytest

from pc_engine.modes.known_count import as_counts


@pytest.mark.parametrize("n", [0, 1, 3])
def test_one_number_is_that_of_every_image(n: int) -> None:
    counts, largest = as_counts(7, np.zeros((n, 4, 4)))
    np.testing.assert_array_equal(counts, np.full(n, 7))
    assert (counts.dtype, largest) == (np.int64, 7)


def test_numbers_of_images_stay_what_they_are_and_are_not_looked_at() -> None:
    known = np.array([3, 1])
    counts, largest = as_counts(known, np.zeros((2, 4, 4)))
    assert counts is known
    assert largest is None
