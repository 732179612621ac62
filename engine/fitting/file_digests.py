"""Digests of files by the way, as they are read for something else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from pc_engine.sources import SourceImage, read_file

_BYTES = 8


class FileDigests:
    """Notes the digest of each file that is read through it; several threads may read."""

    def __init__(self) -> None:
        self._found: dict[Path, int] = {}

    def image(self, path: Path) -> SourceImage:
        """Return the image in a file, whose digest is noted when it is read."""
        return SourceImage(os.fspath(path), partial(self._read, path))

    def of(self, paths: Iterable[Path]) -> list[int]:
        """Return the digest of each of these files that was read, a number of 64 bits."""
        return [self._found[path] for path in paths if path in self._found]

    def _read(self, path: Path) -> bytes:
        data = read_file(path)
        self._found[path] = int.from_bytes(hashlib.blake2b(data, digest_size=_BYTES).digest(), "little")
        return data
