"""Reading named tensors out of safetensors, PyTorch and Keras files."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pc_engine.errors import MissingPackageError, WeightsError

#: Where training scripts keep the state_dict inside what they save.
_NESTED = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file by the names that the file gives them (Keras: ``<layer>/kernel`` and ``<layer>/bias``)."""

    path: Path
    tensors: dict[str, np.ndarray]
    is_keras: bool = False


def read_safetensors(path: Path) -> WeightFile:
    """Read a safetensors file; bfloat16 tensors come as ``ml_dtypes.bfloat16``."""
    try:
        with safe_open(path, framework="np") as file:
            return WeightFile(path, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged, cut off or no safetensors file ({_first_line(error)}); get it again."
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
        raise WeightsError(f"{path} is no PyTorch weight file ({_first_line(error)}).") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged, cut off or no PyTorch file ({_first_line(error)}); get it again."
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


def read_keras(path: Path) -> WeightFile:
    """Read the layers of a Keras HDF5 file, with or without the model around them, of Keras 1, 2 or 3.

    Names below a layer changed over time (``fc1_W_1:0``, ``fc1/kernel:0``, ``vars/0``), so a layer's arrays are told
    apart by their number of axes.
    """
    try:
        import h5py
    except ImportError:
        raise MissingPackageError("h5py", "hdf5", f"read the Keras file {path.name}") from None
    tensors: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            layers = _keras_layers(file)
            for layer in layers:
                for array in _own_datasets(layers, layer, path):
                    tensors[f"{layer}/{'bias' if array.ndim == 1 else 'kernel'}"] = array[()]
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is damaged, cut off or no HDF5 file ({_first_line(error)}); get it again."
        ) from None
    return WeightFile(path, tensors, is_keras=True)


def _keras_layers(file: Any) -> Mapping[str, Any]:
    for key in ("model_weights", "layers"):
        if key in file and type(file.get(key, getlink=True)).__name__ == "HardLink":
            return file[key]  # type: ignore[no-any-return]
    return file  # type: ignore[no-any-return]


def _own_datasets(layers: Any, layer: str, path: Path) -> list[Any]:
    """Return the datasets below a layer; raise WeightsError where a link or a dataset leads out of the file."""
    import h5py

    found: list[Any] = []
    if isinstance(layers.get(layer, getlink=True), h5py.HardLink):
        layers[layer].visititems(lambda _, item: _collect(item, h5py.Dataset, found))
        if not any(dataset.external or dataset.is_virtual for dataset in found):
            return found
    raise WeightsError(
        f"{path} keeps the weights of '{layer}' in another file or behind a link, which is not followed."
    )


def _collect(item: Any, kind: type, found: list[Any]) -> None:
    if isinstance(item, kind):
        found.append(item)


def _to_numpy(tensor: Any) -> np.ndarray:
    """Return a torch tensor as NumPy; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach()
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
