"""The tensors of weight files, and reading safetensors; `torch_files` and `keras_files` read those of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from pc_engine.errors import WeightsError, first_line, system_reason
from pc_engine.export.torch_files import read_torch_tensors


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file.

    Attributes
    ----------
    path
        The file.
    tensors
        By the names that it gives them (Keras: ``<layer>/kernel`` and ``<layer>/bias``).
    is_keras
        Whether Keras wrote it.
    is_numbered
        Whether it calls a layer by its kind, counted, and not by its name: ``conv2d``, ``conv2d_1``, ...
    """

    path: Path
    tensors: dict[str, np.ndarray]
    is_keras: bool = False
    is_numbered: bool = False


def read_safetensors(path: Path) -> WeightFile:
    """Read a safetensors file; bfloat16 tensors come as ``ml_dtypes.bfloat16``."""
    try:
        with safe_open(path, framework="np") as file:
            return WeightFile(path, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged, cut off or not a safetensors file ({first_line(error).rstrip('.')}); get it again."
        ) from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({system_reason(error)}): name another with --weights.") from None


def read_torch(path: Path) -> WeightFile:
    """Read a PyTorch state_dict; bfloat16 tensors come as ``ml_dtypes.bfloat16``."""
    return WeightFile(path, read_torch_tensors(path))


def take(file: WeightFile, name: str) -> np.ndarray:
    """Remove a tensor from ``file``, so that its memory goes as soon as its converted form exists.

    Raises
    ------
    WeightsError
        If there is none of that name.
    """
    if name not in file.tensors:
        raise WeightsError(f"{file.path} has no tensor '{name}'; it is incomplete or of another network.")
    return file.tensors.pop(name)


def check_shape(file: WeightFile, name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    """Raise WeightsError where a tensor has another shape than its network needs."""
    if array.shape != expected:
        raise WeightsError(f"{file.path}: the tensor '{name}' has shape {array.shape}, expected {expected}.")


def take_float32(file: WeightFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Take a tensor of this shape; see `take`, `check_shape` and `as_float32`."""
    array = take(file, name)
    check_shape(file, name, array, shape)
    return as_float32(file, name, array)


def as_float32(file: WeightFile, name: str, array: np.ndarray) -> np.ndarray:
    """Return a tensor as float32, contiguous; raise WeightsError where it is none of finite floating point."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise WeightsError(f"{file.path}: the tensor '{name}' is of type {array.dtype}, expected floating point.")
    array = np.ascontiguousarray(array, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # the sum of both infinities is NaN
        total = array.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise WeightsError(f"{file.path}: the tensor '{name}' holds NaN or infinity; the file is damaged.")
    return array
