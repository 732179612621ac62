"""The tensors of weight files, and reading safetensors; `torch_files` and `keras_files` read those of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from pc_engine.errors import WeightsError, first_line
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
            f"{path} is damaged, cut off or no safetensors file ({first_line(error).rstrip('.')}); get it again."
        ) from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}).") from None


def read_torch(path: Path) -> WeightFile:
    """Read a PyTorch state_dict; bfloat16 tensors come as ``ml_dtypes.bfloat16``."""
    return WeightFile(path, read_torch_tensors(path))
