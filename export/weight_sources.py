"""Where weights come from: files of any kind that is read, told by their suffixes, or a seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pc_engine.errors import UsageError
from pc_engine.export.keras_files import read_keras
from pc_engine.export.weight_files import WeightFile, read_safetensors, read_torch

RANDOM = "random:"
_LONGEST_SEED = 18

_READERS = {
    ".safetensors": read_safetensors,
    ".pth": read_torch,
    ".pt": read_torch,
    ".h5": read_keras,
    ".hdf5": read_keras,
    ".keras": read_keras,
}


def random_seed(source: str | Path) -> int | None:
    """Return the seed that ``random:SEED`` names, or None for a file; raise UsageError where it names none."""
    if not str(source).startswith(RANDOM):
        return None
    text = str(source).removeprefix(RANDOM)
    if not text.isascii() or not text.isdigit() or len(text) > _LONGEST_SEED:
        raise UsageError(f"'{source}' names no seed: give a whole number, e.g. {RANDOM}0.")
    return int(text)


def source_name(source: str | Path) -> str:
    """Return what a manifest calls a source: a file by its name, a seed as it was given."""
    return Path(source).name if Path(source).suffix else str(source)


def he_initialised(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Return random weights (He et al. 2015, arXiv:1502.01852): normal with variance 2 / fan-in, zero bias.

    Parameters
    ----------
    shapes
        Of the weight of each layer, by its name: what it gives first, then what it reads.
    seed
        The same one gives the same weights.

    Returns
    -------
    dict
        ``NAME.weight`` and ``NAME.bias`` of each, float32.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        tensors[f"{name}.weight"] = values
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return tensors


def read_weight_file(source: str | Path) -> WeightFile:
    """Read a file by what its suffix says that it is.

    Raises
    ------
    UsageError
        If it is absent, or of no known kind.
    WeightsError
        If it is damaged or no weight file.
    MissingPackageError
        If h5py is needed and absent.
    """
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} is not a weight file of a known kind: expected {', '.join(sorted(_READERS))} or {RANDOM}SEED."
        )
    if not path.is_file():
        raise UsageError(f"The weight file {path} does not exist; check the path.")
    return reader(path)
