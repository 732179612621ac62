"""Pillow's bilinear resize with antialiasing, for a batch of pictures of any sizes on a GPU.

The filter is a triangle that reaches one output pixel, but at least one input pixel, to either side. Its weights are
rounded to 22 bits behind the point; rows are resized first and rounded to whole levels, then columns (Pillow,
``src/libImaging/Resample.c``). Where Pillow takes columns first, as newer versions do for some sizes, its rounding
differs by one level here and there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pc_engine.kernels.array_module import Array

_BITS = 22
_CHANNELS = 3
_THREADS = 256
# Blocks that share an image: few images have to fill a GPU, too.
_BLOCKS_PER_IMAGE = 16
# Distinct lengths of a picture's side whose weights are kept.
_TABLES_KEPT = 1024

SOURCE = r"""
typedef unsigned char uint8;
typedef long long int64;

/* Of an image: address, row_bytes, height, width, first_row, slot, x_taps, x_table, y_taps, y_table. A table has the
   first input position of each output position, then its weights, taps of them each. */
#define COLUMNS 10
#define CHANNELS 3
#define BITS 22

__device__ inline uint8 level(int sum)
{
    const int value = sum >> BITS;
    return (uint8)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Rows of every image: (height, width, 3) to (height, out_width, 3), one image's after the other's. */
extern "C" __global__ void resize_rows(
    const int64* about, const int* tables, uint8* rows, int out_width, int blocks_per_image)
{
    const int64* image = about + (int64)(blockIdx.x / blocks_per_image) * COLUMNS;
    const uint8* source = (const uint8*)image[0];
    const int64 row_bytes = image[1], total = image[2] * out_width;
    const int taps = (int)image[6];
    const int* first = tables + image[7];
    const int* weights = first + out_width;
    const int64 step = (int64)blocks_per_image * blockDim.x;
    for (int64 i = (int64)(blockIdx.x % blocks_per_image) * blockDim.x + threadIdx.x; i < total; i += step) {
        const int x = (int)(i % out_width);
        const uint8* pixel = source + i / out_width * row_bytes + (int64)first[x] * CHANNELS;
        int sum[CHANNELS] = {1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)};
        for (int k = 0; k < taps; ++k) {
            const int weight = weights[x * taps + k];
            if (weight == 0) continue; /* behind the last position, where the picture may end */
            for (int c = 0; c < CHANNELS; ++c) sum[c] += weight * pixel[k * CHANNELS + c];
        }
        uint8* target = rows + (image[4] * out_width + i) * CHANNELS;
        for (int c = 0; c < CHANNELS; ++c) target[c] = level(sum[c]);
    }
}

/* Columns of what resize_rows made: (height, out_width, 3) to (out_height, out_width, 3) at the image's slot. */
extern "C" __global__ void resize_columns(
    const int64* about, const int* tables, const uint8* rows, uint8* pixels, int out_height, int out_width,
    int blocks_per_image)
{
    const int64* image = about + (int64)(blockIdx.x / blocks_per_image) * COLUMNS;
    const int64 line = (int64)out_width * CHANNELS, total = out_height * line;
    const int taps = (int)image[8];
    const int* first = tables + image[9];
    const int* weights = first + out_height;
    const uint8* source = rows + image[4] * line;
    uint8* target = pixels + image[5] * total;
    const int64 step = (int64)blocks_per_image * blockDim.x;
    for (int64 i = (int64)(blockIdx.x % blocks_per_image) * blockDim.x + threadIdx.x; i < total; i += step) {
        const int y = (int)(i / line);
        const uint8* value = source + first[y] * line + i % line;
        int sum = 1 << (BITS - 1);
        for (int k = 0; k < taps; ++k) {
            const int weight = weights[y * taps + k];
            if (weight != 0) sum += weight * value[k * line];
        }
        target[i] = level(sum);
    }
}
"""


class DevicePicture(NamedTuple):
    """A picture in the memory of a GPU: uint8 (height, width, 3), the values of a row side by side.

    Attributes
    ----------
    address
        Where it begins.
    row_bytes
        Bytes from one row to the next.
    height, width
        Its pixels.
    owner
        What keeps it there.
    """

    address: int
    row_bytes: int
    height: int
    width: int
    owner: object

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of an array."""
        return self.height, self.width, _CHANNELS


@functools.lru_cache(_TABLES_KEPT)
def resize_table(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what an axis of ``new`` positions is made of, which had ``old``: input positions and their weights.

    The first input position of each is (new,) int32; the weights, (new, k) int32 in units of 2**-22, are those of it
    and the k - 1 positions after it, and 0 behind the last.
    """
    scale = old / new
    reach = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    past = np.minimum((centre + reach + 0.5).astype(np.int64), old)
    position = first[:, None] + np.arange((past - first).max())
    weights = np.maximum(1 - np.abs((position - centre[:, None] + 0.5) / reach), 0)
    weights[position >= past[:, None]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    rounded = np.floor(weights * (1 << _BITS) + 0.5).astype(np.int32)
    return first.astype(np.int32), rounded


class DeviceResizer:
    """Resizes a batch of pictures of any sizes in two launches, on the current stream.

    Parameters
    ----------
    cupy
        The module.
    """

    def __init__(self, cupy: ModuleType | Any) -> None:
        self._cupy = cupy
        # Built when first called, and kept in CuPy's own cache on disk.
        self._kernels: tuple[Any, Any] | None = None

    def __call__(self, pictures: Sequence[DevicePicture], slots: Sequence[int], pixels: Array) -> None:
        """Write each picture into its slot of ``pixels`` uint8 (n, height, width, 3), a contiguous array of CuPy's.

        The pictures have to stay until the stream has done this.
        """
        if not pictures:
            return
        if self._kernels is None:
            module = self._cupy.RawModule(code=SOURCE, options=("--std=c++17",))
            self._kernels = module.get_function("resize_rows"), module.get_function("resize_columns")
        height, width = pixels.shape[1:3]
        about, tables, lines = describe_pictures(pictures, slots, height, width)
        on_device, weights = self._cupy.asarray(about), self._cupy.asarray(tables)
        rows = self._cupy.empty(lines * width * _CHANNELS, np.uint8)
        grid, block = (len(pictures) * _BLOCKS_PER_IMAGE,), (_THREADS,)
        size = (np.int32(height), np.int32(width), np.int32(_BLOCKS_PER_IMAGE))
        along_rows, along_columns = self._kernels
        along_rows(grid, block, (on_device, weights, rows, *size[1:]))
        along_columns(grid, block, (on_device, weights, rows, pixels, *size))


def describe_pictures(
    pictures: Sequence[DevicePicture], slots: Sequence[int], height: int, width: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return what the kernels are told: about each picture (n, 10) int64, all tables int32, and the rows of them all.

    Pictures of one size share their tables.
    """
    tables: list[np.ndarray] = []
    places: dict[tuple[int, int], tuple[int, int]] = {}
    length = 0

    def place(old: int, new: int) -> tuple[int, int]:
        """Return the number of weights of a position, and where in the tables its axis begins."""
        nonlocal length
        if (old, new) not in places:
            first, weights = resize_table(old, new)
            places[old, new] = weights.shape[1], length
            tables.extend((first, weights.ravel()))
            length += first.size + weights.size
        return places[old, new]

    about: list[tuple[int, ...]] = []
    lines = 0
    for (address, row_bytes, old_height, old_width, _), slot in zip(pictures, slots, strict=True):
        where = (*place(old_width, width), *place(old_height, height))
        about.append((address, row_bytes, old_height, old_width, lines, slot, *where))
        lines += old_height
    # As one array at the end: writing to a row of one takes longer than all the rest.
    return np.array(about, np.int64), np.concatenate(tables), lines
