"""What crosses between host and device: constants once, and the results of a batch in one copy."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from pc_engine.kernels.array_module import Array, get_array_module


class DeviceConstants:
    """Arrays of the host that every batch reads, copied to each device once."""

    def __init__(self) -> None:
        # By array library, device number and name.
        self._copies: dict[tuple[ModuleType, int, Hashable], Array] = {}

    def get(self, xp: ModuleType, name: Hashable, array: np.ndarray) -> Array:
        """Return ``array`` itself for NumPy, else its copy on the current device of ``xp``.

        ``name`` has to stand for the same array each time.
        """
        if xp is np:
            return array
        place = (xp, int(xp.cuda.Device().id), name)
        if place not in self._copies:
            copy = xp.asarray(array)
            # It is read on the streams of other threads, too, which nothing else tells that it is complete.
            xp.cuda.get_current_stream().synchronize()
            # Where another thread made one meanwhile, the first stays: a CUDA graph may read it already.
            self._copies.setdefault(place, copy)
        return self._copies[place]


_CONSTANTS = DeviceConstants()


def constant(xp: ModuleType, values: tuple[bool, ...] | tuple[float, ...], dtype: Any) -> Array:
    """Return ``values`` as an array (len(values),) of ``xp`` that is not to be written to; a device keeps its copy."""
    return _CONSTANTS.get(xp, (values, np.dtype(dtype).name), np.array(values, dtype))


def copy_to_host(*arrays: Array | None) -> list[np.ndarray | None]:
    """Return arrays of (N, ...) as NumPy arrays of the same types; those on a device cross in a single copy.

    NumPy arrays and None are returned as they are. Integers on a device have to lie within ±2**53.
    """
    xp = get_array_module(*arrays)
    if xp is np:
        return list(arrays)
    crossing = [array if isinstance(array, xp.ndarray) else None for array in arrays]
    arrived = unpack(pack(crossing).get(), crossing)
    return [array if found is None else found for array, found in zip(arrays, arrived, strict=True)]


def pack(arrays: Sequence[Array | None]) -> Array:
    """Return arrays of (N, ...) side by side as one float64 matrix, which holds every value of theirs exactly.

    At least one is there; None stands for one that is not.
    """
    present = [array for array in arrays if array is not None]
    xp = get_array_module(*present)
    n = len(present[0])
    packed = xp.empty((n, sum(map(_width, present))), xp.float64)
    start = 0
    for array in present:
        packed[:, start : start + _width(array)] = array.reshape(n, _width(array))
        start += _width(array)
    return packed


def unpack(packed: np.ndarray, like: Sequence[Array | None]) -> list[np.ndarray | None]:
    """Return the arrays that `pack` made ``packed`` of, with the shapes and types of ``like``; None where that is."""
    arrays: list[np.ndarray | None] = []
    start = 0
    for array in like:
        if array is None:
            arrays.append(None)
            continue
        part = packed[:, start : start + _width(array)]
        arrays.append(part.astype(array.dtype).reshape(array.shape))
        start += _width(array)
    return arrays


def _width(array: Array) -> int:
    return math.prod(array.shape[1:])
