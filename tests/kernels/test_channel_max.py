import numpy as np
import pytest

from pc_engine.kernels import channel_max


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_equals_the_greatest_cell_of_each_map(dtype):
    maps = np.random.default_rng(0).standard_normal((3, 5, 4, 7)).astype(dtype)
    found = channel_max(maps)
    assert found.shape == (3, 5)
    assert found.dtype == dtype
    for n in range(3):
        for c in range(5):
            assert found[n, c] == max(maps[n, c].ravel().tolist())


def test_layout_in_memory_makes_no_difference():
    channels_last = np.random.default_rng(1).standard_normal((2, 4, 7, 5)).astype(np.float32)
    maps = channels_last.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(channel_max(maps), channel_max(maps.copy()))


def test_nan_is_not_hidden():
    maps = np.zeros((1, 2, 2, 2))
    maps[0, 1, 0, 1] = np.nan
    np.testing.assert_array_equal(channel_max(maps), [[0, np.nan]])


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 0, 4)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        channel_max(np.zeros(shape))


def test_empty_batch():
    assert channel_max(np.zeros((0, 3, 2, 2))).shape == (0, 3)
