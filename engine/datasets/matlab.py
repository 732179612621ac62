"""Struct arrays from MATLAB files: version 7.3, which is HDF5, through h5py; older ones through SciPy.

Both libraries read them in a process of their own, since a damaged file can crash it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.datasets import matlab_child
from pc_engine.errors import DataError
from pc_engine.packages import missing

# The indices of the known data sets take seconds.
_SECONDS = 300


def read_struct_array(path: Path, required: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Return the entries of the first struct array in ``path`` that has the ``required`` fields.

    Each value is an array in MATLAB's orientation; text is an array of character codes (7.3) or of strings (older),
    see :func:`text`; an empty array has size 0; what is neither numbers nor text is one object.

    Raises
    ------
    DataError
        If the file cannot be read or holds no such struct array.
    MissingPackageError
        If it is of version 7.3 and h5py is not installed.
    """
    answer = _ask_child(path, required)
    if "missing" in answer:
        raise missing("h5py", f"read {path.name}, a MATLAB file of version 7.3")
    if "error" in answer:
        raise DataError(f"{path} cannot be read as a MATLAB file: {answer['error']}.")
    entries = answer["entries"]
    if entries is None:
        raise DataError(f"{path} holds no struct array with the fields {', '.join(required)}.")
    return [{name: _array(value) for name, value in entry.items()} for entry in entries]


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
    try:
        return "".join(map(chr, flat))
    except OverflowError as error:
        raise ValueError(f"text was expected, found a number that is not a character ({error})") from None


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


def _ask_child(path: Path, required: Sequence[str]) -> dict[str, Any]:
    # By its file, so that it imports nothing it does not use; -P keeps its folder from being looked for modules in.
    command = [sys.executable, "-P", matlab_child.__file__, str(path), *required]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each of its threads reserves memory
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{path} cannot be read as a MATLAB file: it took more than {_SECONDS} seconds.") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    except ValueError:
        answer = {}
    return answer or {"error": "it is damaged and crashed its reader"}


def _array(value: Mapping[str, Any]) -> np.ndarray:
    if "values" not in value:
        return np.empty(1, object)
    return np.array(value["values"], value["type"]).reshape(value["shape"])
