import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import sort_rows

VALUES = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, 1e308]


@given(arrays(np.float64, st.tuples(st.integers(0, 3), st.integers(0, 9)), elements=st.sampled_from(VALUES)))
@settings(max_examples=100)
def test_equals_a_stable_sort_of_each_image(scores):
    rows = np.stack([np.broadcast_to(np.arange(scores.shape[1]), scores.shape), scores], axis=2)
    found = sort_rows(rows, 1)
    assert found.dtype == rows.dtype
    for image, own in zip(found, rows, strict=True):
        expected = sorted(own, key=lambda row: (np.isnan(row[1]), -row[1] if row[1] == row[1] else 0))
        np.testing.assert_array_equal(image, np.reshape(expected, image.shape))
    for most in (0, 2, 99):
        np.testing.assert_array_equal(sort_rows(rows, 1, most), found[:, :most])


def test_an_image_is_sorted_alone():
    rows = np.random.default_rng(0).integers(0, 4, (3, 20, 5)).astype(np.float32)
    for n in range(3):
        np.testing.assert_array_equal(sort_rows(rows, 4)[n], sort_rows(rows[n : n + 1], 4)[0])


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        (np.zeros((2, 3)), 0),
        (np.zeros((2, 3, 4), int), 0),
        (np.zeros((2, 3, 4)), 4),
        (np.zeros((2, 3, 4)), -1),
    ],
)
def test_refuses_what_is_no_table_or_column(rows, column):
    with pytest.raises(ValueError, match="sort_rows needs"):
        sort_rows(rows, column)


def test_refuses_a_negative_number_of_rows():
    with pytest.raises(ValueError, match="most"):
        sort_rows(np.zeros((1, 2, 3)), 0, -1)
