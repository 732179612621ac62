"""Named arrays with a header in one safetensors file: the form of a model's counter and signatures.

A safetensors file holds plain numbers and a JSON header, so that reading one from a stranger runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pc_engine.errors import ModelError
from pc_engine.files.durable import publish_bytes


@dataclass(frozen=True)
class TensorFileKind:
    """What a file of one kind is called, and how a user gets a new one.

    Attributes
    ----------
    noun
        Completes "… is not a …", e.g. ``"count SVM"``.
    format
        Written into the header and compared on reading; changes whenever the layout does.
    remedy
        The command that makes a new one.
    """

    noun: str
    format: str
    remedy: str


@contextmanager
def building(path: Path, kind: TensorFileKind, lists: str) -> Iterator[None]:
    """Raise ModelError, with the file's name, where nothing can be built of it; ``lists`` is what it has to list."""
    try:
        yield
    except KeyError as error:
        raise ModelError(f"{path} lacks {error}; make it again with '{kind.remedy}'.") from None
    except TypeError:
        raise ModelError(f"{path} does not list its {lists}; make it again with '{kind.remedy}'.") from None
    except ModelError as error:
        raise ModelError(f"{path} cannot be used. {error}") from None


def write_tensors(
    path: Path, kind: TensorFileKind, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]
) -> None:
    """Write ``tensors`` and the JSON values of ``header`` to ``path``: whole, or not at all."""
    metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in header.items()}
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    publish_bytes(path, _in_stable_order(save(contiguous, metadata={"format": kind.format, **metadata})))


def _in_stable_order(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file: the library writes it in another order each time.

    The file starts with the length of its JSON header, 8 bytes little-endian; the header is padded with spaces.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + text.ljust(length) + content[8 + length :]


def read_tensors(path: Path, kind: TensorFileKind) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote: the arrays by name, and the header.

    Raises
    ------
    ModelError
        If the file is absent, is damaged, or is of another kind or format.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist, and a {kind.noun} is needed: make one with '{kind.remedy}'.")
    try:
        with safe_open(path, framework="np") as stream:
            metadata = stream.metadata() or {}
            if metadata.get("format") != kind.format:
                raise ModelError(
                    f"{path} has format {metadata.get('format')!r}, but a {kind.noun} of this version has "
                    f"{kind.format!r}; make it again with '{kind.remedy}'."
                )
            header = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
            return {name: stream.get_tensor(name) for name in stream.keys()}, header  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as a {kind.noun} ({error}); make it again with '{kind.remedy}'."
        ) from None
