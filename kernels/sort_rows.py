"""The rows of tables in the order of one of their columns, such as pointers by their scores."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of

# The kernel's state has room for a multiple of so many keys: AT_ONCE of cuda/sort_rows.cu.
_KEYS_AT_ONCE = 8


def sort_rows(rows: Array, column: int, most: int | None = None) -> Array:
    """Return each image's rows by decreasing value in one column; equal ones stay in their order.

    Parameters
    ----------
    rows
        (N, K, W), floating point.
    column
        The column, 0 … W - 1. Rows with NaN in it come last, in their order.
    most
        How many rows of each image are wanted; None for all.

    Returns
    -------
    Array
        (N, min(K, most), W), dtype of ``rows``.

    Raises
    ------
    ValueError
        If ``rows`` has another rank or type, there is no such column, or ``most`` is negative.

    Notes
    -----
    A kernel on a device for float32 and float64, which counts the rows that come before each: that is more work than
    sorting many rows would be, but it does not wait for the device, as CuPy's sorting does.
    """
    if rows.ndim != 3 or rows.dtype.kind != "f" or not 0 <= column < rows.shape[2]:
        raise ValueError(
            f"sort_rows needs floating-point rows (N, K, W) and one of their columns, but got {rows.dtype} "
            f"{rows.shape} and column {column}."
        )
    if most is not None and most < 0:
        raise ValueError(f"most must be at least 0, but is {most}.")
    xp = get_array_module(rows)
    count, length, width = rows.shape
    most = length if most is None else min(length, most)
    device = device_of(rows, types=("f32", "f64"))
    if device is None:
        order = xp.argsort(-rows[..., column], axis=1, kind="stable")[:, :most]  # NaN sorts last
        return xp.take_along_axis(rows, order[..., None], axis=1)
    found = xp.empty((count, most, width), rows.dtype)
    device.launch(
        "sort_rows",
        xp.ascontiguousarray(rows),
        *map(xp.int32, (length, width, column, most)),
        found,
        blocks=count if most else 0,
        tasks=length,
        doubles=-(-length // _KEYS_AT_ONCE) * _KEYS_AT_ONCE,
    )
    return found
