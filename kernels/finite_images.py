"""Which images of a batch have finite taps, and zeros for the others, so that they cannot disturb what follows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of, kernel_suffix, no_array

# Taps that one launch takes: TAPS of cuda/finite_images.cu.
_TAPS = 8
# Bytes that a thread reads: LOADS of cuda/finite_images.cu, of 16 bytes each.
_BYTES_OF_THREAD = 128
# Values of an image in a tap, which the kernels number in 32 bits, together with those of a chunk.
_MOST_VALUES = 2**30


def finite_images(taps: Sequence[Array]) -> Array:
    """Return which images have finite taps, and set those of the others to zero, in place.

    Parameters
    ----------
    taps
        At least one array (N, ...), of one N, floating point or integers. On a host nothing is written where all is
        finite.

    Returns
    -------
    Array
        (N,) bool: False where a value in any of the taps is NaN or infinite, or a sum of an image's in float64 is.

    Raises
    ------
    ValueError
        If there is no tap, or they are of different numbers of images.

    Notes
    -----
    Two kernels on a device for up to 8 contiguous taps of one type, float16 or float32: one reads each value once, the
    other clears.
    """
    if len({tap.shape[:1] for tap in taps}) != 1 or not taps[0].ndim:
        raise ValueError(
            f"finite_images needs taps (N, ...) of one number of images, but got {[tap.shape for tap in taps]}."
        )
    xp, device, count = get_array_module(*taps), device_of(*taps), len(taps[0])
    finite = xp.ones(count, bool)
    taps = [tap for tap in taps if tap.size]
    if device is None:
        with xp.errstate(over="ignore", invalid="ignore"):
            for tap in taps:
                finite &= _finite_sums(tap)
        if not finite.all():
            for tap in taps:
                _clear(tap, finite)
        return finite
    # A device is not asked whether there are such images, as that would wait for it.
    others = [tap for tap in taps if not _a_kernel_takes(tap)]
    groups = list(_groups([tap for tap in taps if _a_kernel_takes(tap)]))
    for group in groups:
        _launch_search(device, group, finite)
    for tap in others:
        finite &= _finite_sums(tap)
    for group in groups:
        _launch_clearing(device, group, finite)
    for tap in others:
        _clear(tap, finite)
    return finite


def _finite_sums(tap: Array) -> Array:
    """Return whether each image's sum is finite: it is only if every value is, and needs no flags of the tap's size."""
    xp = get_array_module(tap)
    return xp.isfinite(tap.reshape(len(tap), -1).sum(axis=1, dtype=xp.float64))


def _clear(tap: Array, finite: Array) -> None:
    get_array_module(tap).copyto(tap, 0, where=~finite.reshape(len(tap), *[1] * (tap.ndim - 1)))


def _a_kernel_takes(tap: Array) -> bool:
    contiguous = bool(tap.flags.c_contiguous)  # a copy of another one would be cleared in its place
    return contiguous and kernel_suffix([tap]) in ("f16", "f32") and math.prod(tap.shape[1:]) <= _MOST_VALUES


def _groups(taps: Sequence[Array]) -> Iterator[Sequence[Array]]:
    """Yield the taps, as many together as one launch takes, large ones first: most blocks then find theirs at once."""
    for name in sorted({tap.dtype.name for tap in taps}):
        alike = sorted((tap for tap in taps if tap.dtype.name == name), key=lambda tap: -tap.size)
        yield from (alike[first : first + _TAPS] for first in range(0, len(alike), _TAPS))


def _slots(group: Sequence[Array]) -> tuple[Array, ...]:
    """Return the arguments for the taps, and for those that are not there."""
    xp, absent = get_array_module(*group), _TAPS - len(group)
    sizes = [*(math.prod(tap.shape[1:]) for tap in group), *[0] * absent]
    return (*group, *[no_array(xp)] * absent, *map(xp.int32, sizes))


def _launch_search(device: Device, group: Sequence[Array], finite: Array) -> None:
    xp, itemsize = get_array_module(finite), group[0].dtype.itemsize
    tasks = max(tap.nbytes for tap in group) // (len(finite) * _BYTES_OF_THREAD)
    chunk = device.threads("finite_images", tasks) * _BYTES_OF_THREAD // itemsize
    chunks = sum(math.ceil(math.prod(tap.shape[1:]) / chunk) for tap in group)
    device.launch(
        "finite_images",
        *_slots(group),
        xp.int32(chunks),
        xp.int32(chunk),
        finite,
        blocks=len(finite) * chunks,
        tasks=tasks,
    )


def _launch_clearing(device: Device, group: Sequence[Array], finite: Array) -> None:
    device.launch(
        "clear_images",
        *_slots(group),
        finite,
        blocks=len(finite),
        tasks=max(tap.nbytes for tap in group) // len(finite),
    )
