"""One copy for all that a batch gives, with every value as it was."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pc_engine.hardware.device_arrays import constant, copy_to_host, pack, unpack
from pc_engine.kernels import finite_images

TYPES = (np.bool_, np.int32, np.int64, np.float32, np.float64)


def values_of(kind: type) -> st.SearchStrategy[Any]:
    if kind is np.int64:
        return st.integers(-(2**53), 2**53)
    return arrays.from_dtype(np.dtype(kind))  # with NaN, infinities and subnormal numbers


@st.composite
def batches(draw: st.DrawFn) -> list[np.ndarray]:
    """Some arrays of one batch, without images or slots, too."""
    n = draw(st.integers(0, 4))
    shapes = draw(st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=1, max_size=4))
    kinds = [draw(st.sampled_from(TYPES)) for _ in shapes]
    return [
        draw(arrays.arrays(kind, (n, *shape), elements=values_of(kind)))
        for kind, shape in zip(kinds, shapes, strict=True)
    ]


@settings(max_examples=100)
@given(batch=batches())
def test_what_is_packed_comes_out_bit_for_bit(batch: list[np.ndarray]) -> None:
    packed = pack(batch)
    assert packed.dtype == np.float64
    assert packed.shape == (len(batch[0]), sum(int(np.prod(array.shape[1:])) for array in batch))
    for found, expected in zip(unpack(packed, batch), batch, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found.astype(float)), np.signbit(expected.astype(float)))


def test_host_arrays_and_none_are_returned_as_they_are() -> None:
    count, pointers = np.arange(3), np.ones((3, 2, 5))
    found = copy_to_host(count, None, pointers)
    assert found[0] is count
    assert found[1] is None
    assert found[2] is pointers


def test_all_arrays_of_a_device_cross_in_one_copy(pretended_gpu: Any) -> None:
    cupy: Any = sys.modules["cupy"]
    host = np.array([True, False, True])
    values = [np.array([1, -1, 4]), np.full((3, 2, 5), np.nan), host, np.ones((3, 4), np.float32)]
    found = copy_to_host(cupy.asarray(values[0]), cupy.asarray(values[1]), host, None, cupy.asarray(values[3]))
    assert pretended_gpu.to_host == 1
    assert found[2] is host
    assert found[3] is None
    for array, expected in zip([found[0], found[1], found[4]], [values[0], values[1], values[3]], strict=True):
        assert type(array) is np.ndarray
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_constants_cross_once(pretended_gpu: Any) -> None:
    cupy: Any = sys.modules["cupy"]
    first = constant(cupy, (0, 1, 4), np.int64)
    assert constant(cupy, (0, 1, 4), np.int64) is first
    assert pretended_gpu.to_device == 1
    assert constant(cupy, (0, 1, 4), np.float64).dtype == np.float64
    assert constant(cupy, (False, True), bool).dtype == np.bool_
    np.testing.assert_array_equal(constant(np, (2.0, 3.0), np.float64), [2, 3])
    assert pretended_gpu.to_device == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_taps_on_a_device_are_mended_without_a_look_at_them(value: float, pretended_gpu: Any) -> None:
    cupy: Any = sys.modules["cupy"]
    taps = [np.full((3, 2, 4), 3e38, np.float32), np.ones((3, 5), np.float32)]
    taps[0][1, 1, 2] = value
    there = [cupy.asarray(tap) for tap in taps]
    finite = finite_images(there)
    assert isinstance(finite, cupy.ndarray)
    assert (pretended_gpu.to_host, pretended_gpu.to_device) == (0, 2)
    np.testing.assert_array_equal(finite.get(), finite_images(taps))
    for tap, mended in zip(there, taps, strict=True):
        np.testing.assert_array_equal(tap.get(), mended)
