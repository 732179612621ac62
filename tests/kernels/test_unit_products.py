import numpy as np
import pytest
from sklearn.preprocessing import normalize

from pc_engine.kernels import unit_products


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_equals_the_products_with_scikit_learns_normalised_rows(dtype):
    rng = np.random.default_rng(0)
    rows, weights = rng.standard_normal((6, 40)).astype(dtype), rng.standard_normal((3, 40)).astype(np.float32)
    found = unit_products(rows, weights)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, normalize(rows.astype(np.float64)) @ weights.T, rtol=1e-5, atol=1e-6)


def test_a_row_of_zeros_gives_zeros_and_one_that_overflows_nothing():
    rows = np.array([[0, 0], [1e30, 0], [0, -2]], np.float32)
    with np.errstate(over="ignore"):
        found = unit_products(rows, np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(found, [[0], [np.nan], [-1]])


def test_a_row_has_the_same_products_to_the_last_bit_in_any_batch():
    rng = np.random.default_rng(1)
    rows, weights = rng.standard_normal((9, 501)).astype(np.float32), rng.standard_normal((5, 501)).astype(np.float32)
    alone = [unit_products(rows[k : k + 1], weights)[0] for k in range(9)]
    np.testing.assert_array_equal(unit_products(rows, weights), alone)


def test_empty_batch():
    assert unit_products(np.zeros((0, 4), np.float32), np.zeros((5, 4), np.float32)).shape == (0, 5)


@pytest.mark.parametrize(
    ("rows", "weights"),
    [
        (np.zeros(4), np.zeros((5, 4), np.float32)),
        (np.zeros((1, 4)), np.zeros((5, 3), np.float32)),
        (np.zeros((1, 4)), np.zeros((5, 4))),
        (np.zeros((1, 4), np.int64), np.zeros((5, 4), np.float32)),
    ],
)
def test_refuses_others(rows, weights):
    with pytest.raises(ValueError, match="unit_products needs"):
        unit_products(rows, weights)
