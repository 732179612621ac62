"""Reading the layers of Keras files: HDF5 of Keras 1, 2 and 3, and the ``.keras`` archives of Keras 3.

Keras 1 and 2 keep a layer as ``block1_conv1/...``, with or without the model around it. Keras 3 keeps it as
``layers/conv2d/vars/0``, called by its kind and counted, whatever the layer's own name is; later versions (3.15, not
3.5) have that in an attribute of ``vars``. A ``.keras`` file is a zip that holds such a file uncompressed, and it is
read there.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pc_engine.errors import MissingPackageError, WeightsError
from pc_engine.export.weight_files import WeightFile, first_line

_MEMBER = "model.weights.h5"
# Before the name of a zip's member: 26 bytes that its directory repeats, then the lengths of the name and of an extra.
_LENGTHS_AT, _LENGTHS, _NAME_AT = 26, "<HH", 30
_ENCRYPTED = 1  # of a member's flags
_CHUNK = 1 << 20
# Bytes that weights take for one of the file: compressed ones are hardly smaller, but zeros are nothing at all.
_LARGEST_GROWTH = 16
_NUMBER_KINDS = "fiub"

# What h5py and zipfile are seen to raise on damaged files; NotImplementedError is a RuntimeError.
_DAMAGED = (
    OSError,
    LookupError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    struct.error,
)


def read_keras(path: Path) -> WeightFile:
    """Read the layers of a Keras HDF5 file, with or without the model around them, of Keras 1, 2 or 3.

    Names below a layer changed over time (``fc1_W_1:0``, ``fc1/kernel:0``, ``vars/0``), so a layer's arrays are told
    apart by their number of axes.

    Raises
    ------
    WeightsError
        If the file is damaged, leads out of itself, or would fill far more memory than it has bytes.
    MissingPackageError
        If h5py is absent.
    """
    with _damage_said(path, "HDF5 file"):
        return _read_layers(path, path, path.stat().st_size)


def read_keras_archive(path: Path) -> WeightFile:
    """Read the layers of a ``.keras`` file; otherwise as `read_keras`."""
    with _damage_said(path, ".keras file"), path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        if _MEMBER not in archive.namelist():
            raise WeightsError(
                f"{path} holds no {_MEMBER}: save the weights in one file with model.save_weights('NAME.weights.h5')."
            )
        member = archive.getinfo(_MEMBER)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            raise WeightsError(
                f"{path} was packed anew, with compression or a password, which Keras does not do: unpack it, and give "
                f"its {_MEMBER}."
            )
        with archive.open(member) as content:  # to its end, where the sum of its bytes is compared
            while content.read(_CHUNK):
                pass
        stream.seek(member.header_offset + _LENGTHS_AT)
        start = member.header_offset + _NAME_AT + sum(struct.unpack(_LENGTHS, stream.read(4)))
        return _read_layers(_Window(stream, start, member.file_size), path, member.file_size)


@contextmanager
def _damage_said(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise WeightsError(f"{path} is damaged, cut off or no {kind} ({first_line(error)}); get it again.") from None


class _Window(io.RawIOBase):
    """Part of a file, as a file of its own."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._stream.seek(self._start + self._at)
        n = self._stream.readinto(view[: max(self._size - self._at, 0)])  # type: ignore[attr-defined]
        self._at += n
        return int(n)


def _read_layers(source: Path | _Window, path: Path, size: int) -> WeightFile:
    """Read an HDF5 file of ``size`` bytes; ``path`` is what errors call it."""
    try:
        import h5py
    except ImportError:
        raise MissingPackageError("h5py", "hdf5", f"read the Keras file {path.name}") from None
    with h5py.File(source, "r") as file:
        layers = _keras_layers(file)
        datasets = {layer: _own_datasets(layers, layer, path) for layer in layers}
        _check_memory([each for own in datasets.values() for each in own], size, path)
        names = {layer: name for layer in layers if (name := _own_name(layers[layer])) is not None}
        tensors: dict[str, np.ndarray] = {}
        for layer, own in datasets.items():
            for array in own:
                kind = "bias" if len(array.shape or ()) == 1 else "kernel"
                tensors[f"{names.get(layer, layer)}/{kind}"] = array[()]
    return WeightFile(path, tensors, is_keras=True, is_numbered=not names)


def _keras_layers(file: Any) -> Mapping[str, Any]:
    for key in ("model_weights", "layers"):
        if key in file and type(file.get(key, getlink=True)).__name__ == "HardLink":
            return file[key]  # type: ignore[no-any-return]
    return file  # type: ignore[no-any-return]


def _own_name(layer: Any) -> str | None:
    """Return the name that Keras 3 notes of a layer; None where it notes none."""
    if not hasattr(layer, "get") or type(layer.get("vars", getlink=True)).__name__ != "HardLink":
        return None
    name = layer["vars"].attrs.get("name")
    return name if isinstance(name, str) else None


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


def _check_memory(datasets: list[Any], size: int, path: Path) -> None:
    """Raise WeightsError where the datasets of a file of ``size`` bytes are no numbers, or far too many."""
    if any(dataset.dtype.kind not in _NUMBER_KINDS for dataset in datasets):
        raise WeightsError(f"{path} holds weights that are no numbers: save them again with Keras.")
    needed = sum(math.prod(dataset.shape or ()) * dataset.dtype.itemsize for dataset in datasets)
    if needed > _LARGEST_GROWTH * size:
        raise WeightsError(
            f"{path} has {size / 1e6:,.1f} MB and would take {needed / 1e6:,.1f} MB of memory: it is damaged, or made "
            f"to fill it."
        )
