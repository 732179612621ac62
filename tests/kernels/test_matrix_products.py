import numpy as np
import pytest

from pc_engine.kernels import matrix_products


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_equals_the_products_image_by_image(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 5, 40)).astype(dtype), rng.standard_normal((4, 40, 6)).astype(dtype)
    found = matrix_products(a, b)
    assert found.dtype == dtype
    assert found.shape == (4, 5, 6)
    for n in range(4):
        expected = a[n].astype(np.float64) @ b[n].astype(np.float64)
        np.testing.assert_allclose(found[n], expected, rtol=1e-3 if dtype == np.float16 else 1e-5, atol=1e-5)


def test_float16_is_added_up_wider():
    ones = np.ones((1, 1, 4096), np.float16)
    assert matrix_products(ones, ones.transpose(0, 2, 1)) == 4096  # in float16 the sum stops at 2048


def test_the_matrices_of_an_image_are_multiplied_alone():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 7, 9)).astype(np.float32), rng.standard_normal((3, 9, 8)).astype(np.float32)
    alone = [matrix_products(a[n : n + 1], b[n : n + 1])[0] for n in range(3)]
    np.testing.assert_array_equal(matrix_products(a, b), alone)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((1, 2)), np.zeros((2, 3))),
        (np.zeros((1, 2, 3)), np.zeros((1, 2, 3))),
        (np.zeros((1, 2, 3)), np.zeros((2, 3, 2))),
        (np.zeros((1, 2, 3)), np.zeros((1, 3, 2), np.float32)),
        (np.zeros((1, 2, 3), int), np.zeros((1, 3, 2), int)),
    ],
)
def test_refuses_others(a, b):
    with pytest.raises(ValueError, match="matrix_products needs"):
        matrix_products(a, b)
