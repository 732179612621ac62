import numpy as np
import pytest

from pc_engine.kernels import select_maps


def test_takes_each_image_s_own_maps_in_order():
    maps = np.random.default_rng(0).standard_normal((2, 6, 3, 4)).astype(np.float32)
    indices = np.array([[5, 0, 0], [1, 4, 2]])
    found = select_maps(maps, indices)
    assert found.shape == (2, 3, 3, 4)
    assert found.dtype == np.float32
    for n in range(2):
        for k in range(3):
            np.testing.assert_array_equal(found[n, k], maps[n, indices[n, k]])


def test_result_is_a_copy():
    maps = np.zeros((1, 2, 2, 2))
    select_maps(maps, np.array([[1]]))[:] = 1
    assert not maps.any()


def test_nothing_selected():
    assert select_maps(np.zeros((2, 3, 4, 4)), np.zeros((2, 0), dtype=int)).shape == (2, 0, 4, 4)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.array([[0, 3]]), "from 0 to 3 for 3 maps"),
        (np.array([[-1, 0]]), "from -1 to 0"),
        (np.array([[0.0, 1.0]]), "integer indices"),
        (np.array([0, 1]), "integer indices"),
        (np.array([[0], [1]]), "shape"),
    ],
)
def test_refuses(indices, message):
    with pytest.raises(ValueError, match=message):
        select_maps(np.zeros((1, 3, 2, 2)), indices)


def test_refuses_maps_of_another_rank():
    with pytest.raises(ValueError, match="maps of shape"):
        select_maps(np.zeros((1, 3, 2)), np.array([[0]]))
