"""Products of feature vectors, scaled to unit length, with weights: the scores of a linear classifier (paper 3.1)."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of, kernel_suffix

# Vectors of weights that the kernel takes: MOST_VECTORS of cuda/unit_products.cu.
_MOST_VECTORS = 8


def unit_products(rows: Array, weights: Array) -> Array:
    """Return ``w · x/‖x‖`` of each row x with each vector w.

    Parameters
    ----------
    rows
        (N, D), floating point.
    weights
        (L, D), float32.

    Returns
    -------
    Array
        (N, L), float32: 0 for an all-zero row, NaN for one whose norm overflows in float32. Squares of values below
        1e-19 lose bits in float32: a row that holds no others is not quite of unit length, and one without any above
        1e-23 is not scaled. An image's products are the same to the last bit in any batch.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    """
    fits = rows.ndim == weights.ndim == 2 and rows.shape[1:] == weights.shape[1:]
    if not fits or rows.dtype.kind != "f" or weights.dtype.name != "float32":
        raise ValueError(
            f"unit_products needs floating-point rows (N, D) and float32 weights (L, D), but got {rows.dtype} "
            f"{rows.shape} and {weights.dtype} {weights.shape}."
        )
    xp, device = get_array_module(rows), device_of(rows)
    if device is None:
        rows = rows.astype(xp.float32, copy=False)
        return _row_products(rows, weights) / row_norms(rows)[:, None]
    if kernel_suffix([rows]) not in ("f16", "f32"):
        rows = rows.astype(xp.float32)
    if len(weights) > _MOST_VECTORS:
        # cuBLAS would do it in one go, but how it rounds may depend on the batch. Nor are the parts concatenated: CuPy
        # copies the addresses of many from the host, of which a CUDA graph would repeat what is there by then.
        found = xp.empty((len(rows), len(weights)), xp.float32)
        for first in range(0, len(weights), _MOST_VECTORS):
            some = slice(first, first + _MOST_VECTORS)
            found[:, some] = unit_products(rows, weights[some])
        return found
    products = xp.empty((len(rows), len(weights)), xp.float32)
    device.launch(
        "unit_products",
        *map(xp.ascontiguousarray, (rows, weights)),
        *map(xp.int32, (rows.shape[1], len(weights))),
        products,
        blocks=len(rows),
        tasks=rows.shape[1],
    )
    return products


def row_norms(rows: Array) -> Array:
    """Return the Euclidean norm of each row of a float32 matrix on the host, (N, D) to (N,); 1 for an all-zero row.

    NaN where it overflows, so that nothing is divided by infinity and taken for zero.
    """
    xp = get_array_module(rows)
    # Row by row: over a whole matrix a row's sum would depend on how many there are.
    norms = xp.sqrt(xp.array([row @ row for row in rows], xp.float32))
    return xp.where(norms == 0, xp.float32(1), xp.where(xp.isinf(norms), xp.float32(xp.nan), norms))


def _row_products(rows: Array, weights: Array) -> Array:
    """Return ``rows @ weights.T`` on the host, each row as exactly as in any other batch."""
    xp = get_array_module(rows)
    # Row by row: how a product of matrices rounds depends on how many rows there are, with AVX-512 for any number.
    products = xp.empty((len(rows), len(weights)), xp.float32)
    # What overflows is seen by its norm. And OpenBLAS was seen once, with AVX-512, to raise the flag of an invalid
    # operation for finite rows with finite products: it computes on more lanes than a short row has.
    with xp.errstate(over="ignore", invalid="ignore"):
        for row, product in zip(rows, products, strict=True):
            xp.dot(weights, row, out=product)
    return products
