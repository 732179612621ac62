"""The array seam: the caller's arrays decide whether a kernel runs on NumPy or on CuPy."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

# NumPy has no static type that covers a CuPy array as well; shapes and dtypes are in the docstrings.
Array = Any


def get_array_module(*arrays: Array) -> ModuleType:
    """Return ``cupy`` if any of ``arrays`` is a CuPy array, else ``numpy``.

    CuPy is looked up among the modules already imported: whoever holds a CuPy array has imported it, and a machine
    without a GPU never pays for the import.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(array, cupy.ndarray) for array in arrays):
        return cupy
    return np


def to_host(array: Array) -> np.ndarray:
    """Return ``array`` as a NumPy array, copying from the device if it lives there."""
    return array.get() if hasattr(array, "get") and not isinstance(array, np.ndarray) else np.asarray(array)
