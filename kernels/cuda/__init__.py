"""The kernels in CUDA C, and the one place through which the operations reach a device.

Every ``.cu`` of this folder holds the kernels of one operation (`heatmaps` and `channels_last` those of several), one
block an image where the cells of an image depend on one another. The NumPy code of the operation says what they
compute. A launch neither copies anything to the host nor waits for the device: it is queued on CuPy's current stream.
What NumPy code would refuse with an exception after looking at the values, a device can only mark:

- heat that is negative or not finite: ``n_clusters`` or ``n_components_`` is -1 and the image has no pointers;
- a count that is negative or over the number of slots: likewise, or NaN boxes and scores;
- the index of a map that does not exist: the image's heatmap is NaN, which is the first case for what comes next.

CuPy compiles for numbers below the smallest normal one to be zero, so that such heat is none, whatever its sign.

Numbers of clusters and components are at least 0 otherwise: where a run copies them to the host, it finds such images.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pc_engine.kernels.array_module import Array, get_array_module

FOLDER = Path(__file__).parent
# Without contraction to fused multiply-adds every product is rounded as on a host, whose results are then the same but
# for the last bits of exp and log.
COMPILE_OPTIONS = ("--std=c++17", "--fmad=false")
# Shared memory that the kernels declare themselves, for their reductions: an upper bound.
STATIC_SHARED_BYTES = 16 << 10
# By the steps that a window takes.
_PIXEL_CONVOLUTIONS = tuple(f"pixel_convolution_{steps}" for steps in (1, 2, 3))
# Sources that are not called as the operation is.
_SOURCES = {
    **dict.fromkeys(("channel_max", "mean_heatmap", "selected_heatmap", "top_weights", "weighted_heatmap"), "heatmaps"),
    **dict.fromkeys(("depthwise_convolution", "max_pool", "pixel_columns", "to_planes"), "channels_last"),
    **dict.fromkeys(_PIXEL_CONVOLUTIONS, "pixel_convolution"),
    "clear_images": "finite_images",
    "cluster_boxes": "cluster_extent",
}
# Threads of a block at most: MAX_THREADS of the sources. Sums over all maps, and products with few vectors, read
# much and compute little, so that as many loads as possible should be under way. Of small blocks some compute while
# others read what they begin with.
_MOST_THREADS = 256
_MOST_THREADS_OF = {
    **dict.fromkeys(("mean_heatmap", "top_weights", "unit_products", "weighted_heatmap"), 1024),
    **dict.fromkeys(_PIXEL_CONVOLUTIONS, 128),
}
_WARP = 32

_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


def device_of(*arrays: Array, types: Collection[str] = ()) -> Device | None:
    """Return the device that work on ``arrays`` goes to; None if NumPy does it, or CuPy, as no kernel takes their type.

    As everywhere in CuPy, the arrays have to lie on the current device. Each `kernel_suffix` that there is a kernel for
    is among ``types``, if these are given.
    """
    xp = get_array_module(*arrays)
    if types and kernel_suffix(arrays) not in types:
        return None
    return _device(xp, int(xp.cuda.Device().id)) if xp.__name__ == "cupy" else None


def cuda_source(name: str, *, state_in_array: bool = False) -> str:
    """Return the text of the source ``name`` with its includes put in.

    ``state_in_array`` is for states that exceed the memory of a block. CuPy's cache of compiled kernels looks at this
    text only: with includes left for the compiler, a change in a header would go unnoticed.
    """
    text = (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
    whole = _INCLUDE.sub(lambda include: (FOLDER / include[1]).read_text(encoding="utf-8"), text)
    return f"#define STATE_IN_ARRAY\n{whole}" if state_in_array else whole


def no_array(xp: ModuleType) -> Array:
    """Return the argument that stands for no array."""
    return xp.uintp(0)


def kernel_suffix(arrays: Sequence[Array]) -> str | None:
    """``"f16"``, ``"f32"`` or ``"f64"``, if all of ``arrays`` are of that one type; else None."""
    names = {array.dtype.name for array in arrays}
    return {"float16": "f16", "float32": "f32", "float64": "f64"}.get(names.pop()) if len(names) == 1 else None


class Device:
    """A GPU as CuPy reaches it; kernels are compiled when first launched."""

    def __init__(self, cupy: ModuleType, number: int) -> None:
        runtime = cupy.cuda.runtime
        self._cupy = cupy
        self._most_threads = int(runtime.deviceGetAttribute(runtime.cudaDevAttrMaxThreadsPerBlock, number))
        block_limit = int(runtime.deviceGetAttribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, number))
        self._shared_limit = block_limit - STATIC_SHARED_BYTES
        # By whether the state is in an array.
        self._modules: dict[tuple[str, bool], Any] = {}
        self._kernels: dict[tuple[str, bool], Any] = {}

    def threads(self, operation: str, tasks: int) -> int:
        """Return the threads of a block of an operation with so many independent tasks."""
        whole_warps = -(-max(tasks, 1) // _WARP) * _WARP
        return min(whole_warps, _MOST_THREADS_OF.get(operation, _MOST_THREADS), self._most_threads)

    def launch(
        self, operation: str, *arguments: Array, blocks: int, tasks: int, doubles: int = 0, ints: int = 0
    ) -> None:
        """Queue the kernel of an operation for the type of the first floating-point array among its arguments.

        Parameters
        ----------
        operation
            The kernel's name but for the type.
        arguments
            Arrays, contiguous, and scalars of NumPy's types, as the kernel's signature has them; `no_array` for null.
        blocks, tasks
            Size of the grid, without which nothing is launched, and independent tasks of a block.
        doubles, ints
            What a block keeps of its image, doubles first: in dynamic shared memory or, where that is too small for it,
            in an array of the device, which is slower.
        """
        if not blocks:  # CuPy makes one block of none
            return
        typed = next(each for each in arguments if each.ndim and each.dtype.kind == "f")
        size = 8 * doubles + 4 * ints
        in_array = size > self._shared_limit
        if in_array:
            doubles = -(-size // 8)
            state = self._cupy.empty(blocks * doubles, self._cupy.float64)
            arguments, size = (*arguments, state, self._cupy.int64(doubles)), 0
        kernel = self._kernel(operation, f"{operation}_{kernel_suffix([typed])}", in_array)
        kernel((blocks,), (self.threads(operation, tasks),), arguments, shared_mem=size)

    def _kernel(self, operation: str, name: str, in_array: bool) -> Any:
        if (name, in_array) not in self._kernels:
            source = _SOURCES.get(operation, operation)
            if (source, in_array) not in self._modules:
                code = cuda_source(source, state_in_array=in_array)
                self._modules[source, in_array] = self._cupy.RawModule(code=code, options=COMPILE_OPTIONS)
            kernel = self._modules[source, in_array].get_function(name)
            # Beyond 48 KiB a block has to ask.
            kernel.max_dynamic_shared_size_bytes = self._shared_limit
            self._kernels[name, in_array] = kernel
        return self._kernels[name, in_array]


_device = functools.cache(Device)
