"""Reads a struct array from a MATLAB file and prints it as JSON: a program of its own, as the file may kill it.

On a damaged file of version 5 SciPy's reader can crash the process that it runs in, and HDF5's has done so as well.
This is started by `pc_engine.datasets.matlab`, and imports nothing else of pc-engine.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEADER_7_3 = b"MATLAB 7.3 MAT-file"

# An index of images holds names, counts and boxes; what asks for more than this is damaged.
_MEMORY = 4 << 30
_LARGEST_VALUE = 1_000_000


def main(path: Path, required: Sequence[str]) -> None:
    """Print ``{"entries": ...}``, or why there are none: ``{"error": ...}`` or ``{"missing": package}``."""
    _limit_memory()
    answer: dict[str, Any]
    try:
        answer = {"entries": _read(path, required)}
    except ImportError:
        answer = {"missing": "h5py"}
    except Exception as error:  # SciPy and h5py are seen to raise of every kind on damaged files
        answer = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
    sys.stdout.write(json.dumps(answer))


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return  # Windows
    for limit, size in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0)):
        soft, hard = resource.getrlimit(limit)
        allowed = [value for value in (size, soft, hard) if value != resource.RLIM_INFINITY]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (min(allowed), hard))


def _read(path: Path, required: Sequence[str]) -> list[dict[str, Any]] | None:
    with path.open("rb") as stream:
        start = stream.read(len(_HEADER_7_3))
    is_hdf5 = start == _HEADER_7_3 or start.startswith(_HDF5_SIGNATURE)
    entries = _read_hdf5(path, required) if is_hdf5 else _read_old(path, required)
    if entries is None:
        return None
    return [{name: _plain(entry[name]) for name in entry} for entry in entries]


def _plain(value: np.ndarray) -> dict[str, Any]:
    """Return an array as JSON holds it; of other types than numbers and text its type alone."""
    if value.size > _LARGEST_VALUE:
        raise ValueError(f"a value of it has {value.size:,} elements")
    known = value.dtype.kind in "buifU"
    plain = {"type": value.dtype.str if known else str(value.dtype), "shape": list(value.shape)}
    return {**plain, "values": value.ravel(order="C").tolist()} if known else plain


def _read_old(path: Path, required: Sequence[str]) -> list[dict[str, np.ndarray]] | None:
    import scipy.io

    for variable in scipy.io.loadmat(path).values():
        names = getattr(getattr(variable, "dtype", None), "names", None) or ()
        if set(required) <= set(names):
            return [{name: np.asarray(entry[name]) for name in names} for entry in variable.ravel(order="F")]
    return None


def _read_hdf5(path: Path, required: Sequence[str]) -> list[dict[str, np.ndarray]] | None:
    import h5py

    with h5py.File(path, "r") as file:
        for group in _groups(file, h5py):
            if set(required) <= set(group):
                return _entries(file, group, h5py)
    return None


def _groups(file: Any, h5py: Any) -> Iterator[Any]:
    """Walk the top-level groups, i.e. the struct variables; ``#refs#`` holds the values they point to."""
    for name in file:
        # What a link leads to may be in another file.
        is_own = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if is_own and not name.startswith("#") and isinstance(file[name], h5py.Group):
            yield file[name]


def _entries(file: Any, group: Any, h5py: Any) -> list[dict[str, np.ndarray]]:
    fields: dict[str, list[np.ndarray]] = {}
    for name in group:
        linked = not isinstance(group.get(name, getlink=True), h5py.HardLink)
        dataset = None if linked else group[name]
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
    if dataset.external or dataset.is_virtual:
        raise ValueError("its values lie in another file")
    array = np.asarray(dataset[()])
    if dataset.attrs.get("MATLAB_empty", 0):
        return array[:0]  # the stored values are the sizes of the empty array
    return array.T


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
