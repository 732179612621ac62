"""Reads the layers of a Keras file and prints them: a program of its own, as the file may kill it.

HDF5's library can crash the process that it runs in, or never come back, on a damaged file. This is started by
`pc_engine.export.keras_files`, and imports nothing else of pc-engine. It prints a line of JSON and, where that lists
tensors, the bytes of one after the other.
"""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_ARCHIVE = ".keras"
_MEMBER = "model.weights.h5"
# Before the name of a zip's member: 26 bytes that its directory repeats, then the lengths of the name and of an extra.
_LENGTHS_AT, _LENGTHS, _NAME_AT = 26, "<HH", 30
_ENCRYPTED = 1  # of a member's flags
_CHUNK = 1 << 20
# Bytes that weights take for one of the file: compressed ones are hardly smaller, but zeros are nothing at all.
_LARGEST_GROWTH = 16
_NUMBER_KINDS = "fiub"


class _RefusedError(Exception):
    """A file that is not read, with the sentence that says why."""


def main(path: Path) -> None:
    """Print ``{"tensors": [[name, dtype, shape], ...], "numbered": bool}`` and their bytes, C order, one by one.

    Where there are none, ``{"refused": sentence}`` or, for a damaged file, ``{"error": reason}``.
    """
    # Print nothing but the answer, whatever the libraries say.
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    begun = False
    try:
        for part in _read(path):
            answer.write(part)
            begun = True
    except Exception as error:  # h5py and zipfile are seen to raise of every kind on damaged files
        if begun:
            raise  # the answer is cut short, which the reader of it says
        text = (str(error).splitlines() or [""])[0] or type(error).__name__
        answer.write(_line({"refused" if isinstance(error, _RefusedError) else "error": text}))
    answer.flush()


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _read(path: Path) -> Iterator[bytes | memoryview]:
    if path.suffix.lower() == _ARCHIVE:
        yield from _read_archive(path)
    else:
        yield from _read_layers(path, path, path.stat().st_size)


def _read_archive(path: Path) -> Iterator[bytes | memoryview]:
    """Read the weights of a ``.keras`` file, which is a zip, where they lie."""
    with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        if _MEMBER not in archive.namelist():
            raise _RefusedError(
                f"{path} holds no {_MEMBER}: save the weights in one file with model.save_weights('NAME.weights.h5')."
            )
        member = archive.getinfo(_MEMBER)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            raise _RefusedError(
                f"{path} was repacked, with compression or a password, which Keras does not do: unpack it, and give "
                f"its {_MEMBER}."
            )
        with archive.open(member) as content:  # to its end, where the sum of its bytes is compared
            while content.read(_CHUNK):
                pass
        stream.seek(member.header_offset + _LENGTHS_AT)
        start = member.header_offset + _NAME_AT + sum(struct.unpack(_LENGTHS, stream.read(4)))
        yield from _read_layers(_Window(stream, start, member.file_size), path, member.file_size)


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


def _read_layers(source: Path | _Window, path: Path, size: int) -> Iterator[bytes | memoryview]:
    """Read an HDF5 file of ``size`` bytes; ``path`` is what errors call it."""
    import h5py

    with h5py.File(source, "r") as file:
        layers = _keras_layers(file)
        datasets = {layer: _own_datasets(layers, layer, path) for layer in layers}
        _check_memory([each for own in datasets.values() for each in own], size, path)
        names = {layer: name for layer in layers if (name := _own_name(layers[layer])) is not None}
        tensors = {
            f"{names.get(layer, layer)}/{'bias' if len(array.shape or ()) == 1 else 'kernel'}": array
            for layer, own in datasets.items()
            for array in own
        }
        listed = [(name, array.dtype.str, list(array.shape or ())) for name, array in tensors.items()]
        yield _line({"tensors": listed, "numbered": not names})
        for array in tensors.values():
            # As bytes first: no view of numbers in another order than the processor's can be had.
            yield np.ascontiguousarray(array[()]).reshape(-1).view(np.uint8).data


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
    """Return the datasets below a layer; refuse where a link or a dataset leads out of the file."""
    import h5py

    found: list[Any] = []
    if isinstance(layers.get(layer, getlink=True), h5py.HardLink):
        layers[layer].visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        if not any(dataset.external or dataset.is_virtual for dataset in found):
            return found
    raise _RefusedError(
        f"{path} keeps the weights of '{layer}' in another file or behind a link, which is not followed."
    )


def _check_memory(datasets: list[Any], size: int, path: Path) -> None:
    """Refuse where the datasets of a file of ``size`` bytes are no numbers, or far too many."""
    if any(dataset.dtype.kind not in _NUMBER_KINDS for dataset in datasets):
        raise _RefusedError(f"{path} holds weights that are not numbers: save them again with Keras.")
    needed = sum(math.prod(dataset.shape or ()) * dataset.dtype.itemsize for dataset in datasets)
    if needed > _LARGEST_GROWTH * size:
        raise _RefusedError(
            f"{path} has {size / 1e6:,.1f} MB and would take {needed / 1e6:,.1f} MB of memory: it is damaged, or made "
            f"to fill it."
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
