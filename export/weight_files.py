"""Reading named tensors out of safetensors and PyTorch files; `pc_engine.export.keras_files` reads those of Keras."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pc_engine.errors import MissingPackageError, WeightsError, first_line

#: Where training scripts keep the state_dict inside what they save.
_NESTED = ("state_dict", "model", "model_state_dict")


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
    """Read a PyTorch state_dict, bare or under a training script's usual keys, without running code from the file."""
    try:
        import torch
    except ImportError:
        raise MissingPackageError("torch", "train", f"read the PyTorch file {path.name}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error):  # torch's word for a global that is not a tensor or a plain container
            raise WeightsError(
                f"{path} holds Python objects that could run code when loaded, and is refused: save the weights alone "
                f"with torch.save(model.state_dict(), FILE), or as safetensors."
            ) from None
        raise WeightsError(f"{path} is no PyTorch weight file ({first_line(error).rstrip('.')}).") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged, cut off or no PyTorch file ({first_line(error).rstrip('.')}); get it again."
        ) from None
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a state_dict of named tensors.")
    tensors = {
        str(name).removeprefix("module."): _to_numpy(value)
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    return WeightFile(path, tensors)


def _to_numpy(tensor: Any) -> np.ndarray:
    """Return a torch tensor as NumPy; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach()
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
