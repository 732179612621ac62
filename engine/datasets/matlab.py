"""Struct arrays from MATLAB files: version 7.3, which is HDF5, through h5py; older ones through SciPy."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.errors import DataError, MissingPackageError

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEADER_7_3 = b"MATLAB 7.3 MAT-file"

# What SciPy and h5py are seen to raise on damaged files; NotImplementedError is a RuntimeError.
_DAMAGED = (OSError, ValueError, TypeError, RuntimeError, EOFError, LookupError, zlib.error)


def read_struct_array(path: Path, required: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Return the entries of the first struct array in ``path`` that has the ``required`` fields.

    Each value is an array in MATLAB's orientation; text is an array of character codes (7.3) or of strings (older),
    see :func:`text`; an empty array has size 0.

    Raises
    ------
    DataError
        If the file cannot be read or holds no such struct array.
    MissingPackageError
        If it is of version 7.3 and h5py is not installed.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_HEADER_7_3))
        is_hdf5 = start == _HEADER_7_3 or start.startswith(_HDF5_SIGNATURE)
        entries = _read_hdf5(path, required) if is_hdf5 else _read_old(path, required)
    except _DAMAGED as error:
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}.") from None
    if entries is None:
        raise DataError(f"{path} holds no struct array with the fields {', '.join(required)}.")
    return entries


def text(value: np.ndarray) -> str:
    """Return a MATLAB character array as text.

    Raises
    ------
    ValueError
        If it holds no characters.
    """
    flat = value.ravel(order="F")
    if flat.dtype.kind == "U":
        return "".join(flat)
    if flat.size and flat.dtype.kind not in "ui":
        raise ValueError(f"text was expected, found values of type {flat.dtype}")
    return "".join(map(chr, flat))


def number(value: np.ndarray) -> float:
    """Return a MATLAB scalar.

    Raises
    ------
    ValueError
        If it is not one number.
    """
    if value.size != 1 or value.dtype.kind not in "buif":
        raise ValueError(f"a single number was expected, found {value.size} values of type {value.dtype}")
    return float(value.item())


def _read_old(path: Path, required: Sequence[str]) -> list[dict[str, np.ndarray]] | None:
    import scipy.io  # takes as long as the rest of the readers together, for a form of labels that few have

    try:
        variables = scipy.io.loadmat(path)
    except scipy.io.matlab.MatReadError as error:
        raise ValueError(str(error)) from None
    for variable in variables.values():
        names = getattr(getattr(variable, "dtype", None), "names", None) or ()
        if set(required) <= set(names):
            return [{name: np.asarray(entry[name]) for name in names} for entry in variable.ravel(order="F")]
    return None


def _read_hdf5(path: Path, required: Sequence[str]) -> list[dict[str, np.ndarray]] | None:
    try:
        import h5py
    except ImportError:
        raise MissingPackageError("h5py", "hdf5", f"read {path.name}, a MATLAB file of version 7.3") from None
    with h5py.File(path, "r") as file:
        for group in _groups(file, h5py):
            if set(required) <= set(group):
                return _entries(file, group, h5py)
    return None


def _groups(file: Any, h5py: Any) -> Iterator[Any]:
    """Walk the top-level groups, i.e. the struct variables; ``#refs#`` holds the values they point to."""
    for name, item in file.items():
        if isinstance(item, h5py.Group) and not name.startswith("#"):
            yield item


def _entries(file: Any, group: Any, h5py: Any) -> list[dict[str, np.ndarray]]:
    fields: dict[str, list[np.ndarray]] = {}
    for name, dataset in group.items():
        if not isinstance(dataset, h5py.Dataset):
            continue
        if h5py.check_ref_dtype(dataset.dtype) is not None:
            fields[name] = [_value(file[reference]) for reference in dataset[()].ravel()]
        else:  # a struct of size 1 holds its values themselves
            fields[name] = [_value(dataset)]
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the fields of '{group.name}' have different lengths, {lengths}")
    return [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]


def _value(dataset: Any) -> np.ndarray:
    """Return a dataset in MATLAB's orientation; HDF5 has the axes the other way round."""
    array = np.asarray(dataset[()])
    if dataset.attrs.get("MATLAB_empty", 0):
        return array[:0]  # the stored values are the sizes of the empty array
    return array.T
