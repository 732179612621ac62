import numpy as np
import pytest

from pc_engine.kernels import resize_maps

SIZES = [
    ((14, 14), (7, 7)),
    ((7, 7), (14, 14)),
    ((5, 9), (8, 3)),
    ((1, 4), (3, 4)),
    ((4, 4), (4, 9)),
    ((13, 2), (1, 1)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_equals_torch(old, new):
    torch = pytest.importorskip("torch", reason="torch is the oracle for bilinear resizing")
    maps = np.random.default_rng(0).standard_normal((2, 3, *old)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps), size=new, mode="bilinear", align_corners=False)
    found = resize_maps(maps, *new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def sample(row, position):
    position = min(max(position, 0), len(row) - 1)
    left = int(position)
    right = min(left + 1, len(row) - 1)
    return row[left] * (1 - (position - left)) + row[right] * (position - left)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_equals_sampling_each_cell(old, new):
    maps = np.random.default_rng(1).standard_normal(old)
    rows = [[sample(row, (j + 0.5) * old[1] / new[1] - 0.5) for j in range(new[1])] for row in maps]
    columns = np.array(rows).T
    expected = [[sample(column, (i + 0.5) * old[0] / new[0] - 0.5) for i in range(new[0])] for column in columns]
    np.testing.assert_allclose(resize_maps(maps, *new), np.array(expected).T, atol=1e-12)


def test_by_hand():
    np.testing.assert_allclose(resize_maps(np.array([[0.0, 4.0]]), 1, 4), [[0, 1, 3, 4]])
    np.testing.assert_allclose(resize_maps(np.array([[0.0], [2.0], [4.0], [6.0]]), 2, 1), [[1], [5]])


def test_same_size_is_the_same_array():
    maps = np.ones((2, 3, 4, 5))
    assert resize_maps(maps, 4, 5) is maps


def test_does_not_depend_on_the_batch():
    maps = np.random.default_rng(0).standard_normal((6, 20, 7, 7)).astype(np.float32)
    together = resize_maps(maps, 14, 13)
    for n in range(len(maps)):
        np.testing.assert_array_equal(together[n], resize_maps(maps[n : n + 1], 14, 13)[0])


@pytest.mark.parametrize(
    ("maps", "height", "width"),
    [
        (np.ones(3), 2, 2),
        (np.ones((2, 2), dtype=int), 2, 2),
        (np.ones((0, 2)), 2, 2),
        (np.ones((2, 2)), 0, 2),
    ],
)
def test_refuses(maps, height, width):
    with pytest.raises(ValueError, match="resize_maps needs floating-point maps"):
        resize_maps(maps, height, width)
