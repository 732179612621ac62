"""Tensors that lie in a file beside their network, as PyTorch's exporter puts them: taken into the network.

Where they lie is for the network to say, which a stranger may have written. So only a regular file of the network's own
folder is read, and no link, which may lead anywhere (CVE-2022-25882, CVE-2024-27318).
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

import onnx
from onnx import TensorProto

from pc_engine.errors import ModelError, system_reason
from pc_engine.graph.names import stored_tensors
from pc_engine.graph.prepare import LARGEST_FILE, is_external

_DECIMAL_DIGITS = 19


def embed_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Take the tensors of ``model``, read from ``path``, that lie in files beside it into the model itself.

    Raises
    ------
    ModelError
        If such a file is not a regular file of the network's folder, cannot be read or ends too early, if a tensor's
        place in it makes no sense, or if all of them are too large for one network.
    """
    outside = [tensor for tensor in stored_tensors(model) if is_external(tensor)]
    room = LARGEST_FILE - model.ByteSize()
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for tensor in outside:
            place = {entry.key: entry.value for entry in tensor.external_data}
            name = place.get("location", "")
            if name not in files:
                files[name] = stack.enter_context(_opened(path, tensor.name, name))
            file = files[name]
            end = os.fstat(file.fileno()).st_size
            start = _number(path, tensor, place.get("offset", "0"))
            length = _number(path, tensor, place["length"]) if "length" in place else max(end - start, 0)
            if start + length > end:
                raise ModelError(
                    f"{path.parent / name} ends before the tensor {tensor.name!r:.80} of {path.name} does: export both "
                    f"again."
                )
            room -= length
            if room < 0:
                raise ModelError(f"{path} and the tensors beside it are larger than 2 GiB: export a smaller network.")
            file.seek(start)
            tensor.raw_data = file.read(length)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")


def _opened(path: Path, tensor: str, name: str) -> BinaryIO:
    """Open the file ``name`` in the folder of the network at ``path``."""
    # The names of Windows hold those of all systems.
    if PureWindowsPath(name).name != name or name in ("", ".", "..") or not name.isprintable():
        raise ModelError(
            f"{path} keeps the tensor {tensor!r:.80} in the file {name!r:.200}, which is not in its own folder: export "
            f"it with torch.onnx.export(..., external_data=False), or join it with onnx.save(onnx.load(FILE), NEW)."
        )
    beside = path.parent / name
    what = f"{beside}, in which {path.name} keeps the tensor {tensor!r:.80}"
    try:
        status = beside.lstat()
        # Looked at first, as opening a FIFO would wait.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ModelError(f"{what}, is a link or not a file: put a copy of the file there.")
        file = beside.open("rb")
    except (OSError, ValueError) as error:
        raise ModelError(f"{what}, cannot be read ({system_reason(error)}): put it beside the network.") from None
    if not os.path.samestat(status, os.fstat(file.fileno())):
        file.close()
        raise ModelError(f"{what}, changed while it was opened: run the command again.")
    return file


def _number(path: Path, tensor: TensorProto, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DECIMAL_DIGITS):
        raise ModelError(
            f"{path} is damaged: its tensor {tensor.name!r:.80} has {text!r:.80} as its place; export it again."
        )
    return int(text)
