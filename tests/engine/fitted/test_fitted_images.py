from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import ModelError
from pc_engine.fitted.counter import CountSVM, load_counter
from pc_engine.fitted.fitted_images import MOST_DIGESTS, FittedImages, fitted_images

COUNTER = CountSVM(("gap",), ("0", "1"), {"gap": np.ones((2, 3), np.float32)}, np.zeros(2, np.float32))
LARGEST = 2**64 - 1


def test_images_are_known_again_by_their_digests() -> None:
    images = FittedImages.of([7, LARGEST, 3, 7])
    assert (images.digests.tolist(), images.n, images.complete) == ([3, 7, LARGEST], 4, True)
    assert images.among([]) == images.among([4, 8]) == 0
    assert images.among([7, 7, 4, LARGEST]) == 3


def test_of_many_images_a_sample_is_kept_and_the_others_are_estimated() -> None:
    rng = np.random.default_rng(0)
    digests = rng.integers(0, LARGEST, 40_000, np.uint64, endpoint=True).tolist()
    images = FittedImages.of(digests[:30_000])
    assert (len(images.digests), images.n, images.complete) == (MOST_DIGESTS, 30_000, False)
    assert images.among(digests[30_000:]) == 0
    assert images.among(digests[:30_000]) == 30_000
    assert images.among(digests[25_000:35_000]) == pytest.approx(5_000, abs=300)


def test_a_counter_keeps_them_in_its_file_which_stays_small(tmp_path: Path) -> None:
    COUNTER.save(tmp_path / "without")
    assert load_counter(tmp_path / "without").images is None
    rng = np.random.default_rng(0)
    images = FittedImages.of(rng.integers(0, LARGEST, 100_000, np.uint64).tolist())
    replace(COUNTER, images=images).save(tmp_path / "with")
    found = load_counter(tmp_path / "with").images
    assert found is not None
    np.testing.assert_array_equal(found.digests, images.digests)
    assert (found.n, found.complete) == (100_000, False)
    assert (tmp_path / "with").stat().st_size - (tmp_path / "without").stat().st_size < 34_000


def test_the_embedded_counter_does_not_say_what_it_was_fitted_on() -> None:
    assert load_counter(EMBEDDED_DIRECTORY / "counter.safetensors").images is None


@pytest.mark.parametrize(
    ("digests", "header"),
    [
        (np.array([1, 2], np.int64), {}),
        (np.array([[1, 2]], np.uint64), {}),
        (np.array([2, 1], np.uint64), {}),
        (np.array([1, 1], np.uint64), {}),
        (np.arange(MOST_DIGESTS + 1, dtype=np.uint64), {"n": 10_000}),
        (np.array([1, 2], np.uint64), {"n": 1}),
        (np.array([1, 2], np.uint64), {"n": 2.0}),
        (np.array([1, 2], np.uint64), {"n": True}),
        (np.array([1, 2], np.uint64), {"complete": 1}),
    ],
)
def test_what_is_no_list_of_digests_is_refused(digests: np.ndarray, header: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="are not a list: fit it again"):
        fitted_images(digests, {"n": 2, "complete": True, **header})


@pytest.mark.parametrize("header", [{}, [], "text", None, {"n": 2}])
def test_a_header_that_lacks_something_is_refused(header: Any) -> None:
    with pytest.raises(ModelError, match="lack their number"):
        fitted_images(np.array([1, 2], np.uint64), header)
