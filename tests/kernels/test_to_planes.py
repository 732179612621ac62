import numpy as np
import pytest

from pc_engine.kernels import to_planes


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_value_goes_to_its_place(dtype):
    maps = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(dtype)
    planes = to_planes(maps)
    assert planes.shape == (2, 5, 3, 4)
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    for n, c, y, x in np.ndindex(planes.shape):
        assert planes[n, c, y, x] == np.float32(maps[n, y, x, c])


def test_empty_batch():
    assert to_planes(np.zeros((0, 3, 4, 5), np.float16)).shape == (0, 5, 3, 4)


@pytest.mark.parametrize("maps", [np.zeros((2, 3, 4)), np.zeros((1, 2, 2, 2), np.uint8)])
def test_refuses_others(maps):
    with pytest.raises(ValueError, match="to_planes needs"):
        to_planes(maps)
