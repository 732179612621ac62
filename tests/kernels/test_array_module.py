import numpy as np
import pytest

from pc_engine.kernels import to_host


class OnDevice:
    """An array of a device, which NumPy cannot read; like CuPy's."""

    def __init__(self, values):
        self._values = values

    def get(self):
        return self._values.copy()

    def __array__(self, *_args, **_kwargs):
        raise TypeError("implicit conversion to a NumPy array is not allowed")


def test_what_lies_on_a_device_is_copied_from_there():
    values = np.arange(6).reshape(2, 3)
    found = to_host(OnDevice(values))
    np.testing.assert_array_equal(found, values)
    assert not np.shares_memory(found, values)


@pytest.mark.parametrize("values", [[1, 2], (1, 2), np.array([1, 2])], ids=lambda values: type(values).__name__)
def test_what_lies_on_the_host_needs_no_device(values):
    found = to_host(values)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [1, 2]
