"""Products of two matrices of each image, such as which feature maps are active together."""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of

# Rows, and columns, of a product that a block computes: TILE of cuda/matrix_products.cu.
_TILE = 32
# Threads that each compute four values of a tile.
_THREADS = _TILE * _TILE // 4


def matrix_products(a: Array, b: Array) -> Array:
    """Return the product of each image's matrices, (N, M, K) by (N, K, L) to (N, M, L), in the type of both.

    On a device this is a kernel of this project for float16 and float32, with sums in float32: unlike CuPy's own
    product, which is cuBLAS's, it can be captured in a CUDA graph.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    """
    fits = a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1]
    if not fits or a.dtype != b.dtype or a.dtype.kind != "f":
        raise ValueError(
            f"matrix_products needs matrices (N, M, K) and (N, K, L) of one floating-point type, but got {a.dtype} "
            f"{a.shape} and {b.dtype} {b.shape}."
        )
    xp = get_array_module(a, b)
    device = device_of(a, b, types=("f16", "f32"))
    if device is None:
        # NumPy adds up float16 in float16.
        wide = xp.result_type(a.dtype, xp.float32)
        return xp.matmul(a.astype(wide, copy=False), b.astype(wide, copy=False)).astype(a.dtype, copy=False)
    (count, rows, depth), columns = a.shape, b.shape[2]
    products = xp.empty((count, rows, columns), a.dtype)
    device.launch(
        "matrix_products",
        *map(xp.ascontiguousarray, (a, b)),
        *map(xp.int32, (rows, depth, columns)),
        products,
        blocks=count * math.ceil(rows / _TILE) * math.ceil(columns / _TILE),
        tasks=_THREADS,
    )
    return products
