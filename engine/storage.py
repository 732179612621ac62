"""Where pc-engine keeps files on this machine: models, and a private cache of what was compiled here.

``PC_ENGINE_HOME`` moves both; else models live under the user's data folder, the cache under the user's cache folder
(``XDG_DATA_HOME``, ``XDG_CACHE_HOME``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pc_engine.manifest import file_sha256


def models_directory() -> Path:
    """Return the folder of installed models; it may not exist yet."""
    return _base("XDG_DATA_HOME", ".local/share") / "models"


def cache_directory() -> Path:
    """Return the folder of compiled networks and of what was measured on this machine; it may not exist yet."""
    return _base("XDG_CACHE_HOME", ".cache") / "compiled"


def _base(variable: str, default: str) -> Path:
    home = os.environ.get("PC_ENGINE_HOME")
    if home:
        return Path(home).expanduser().absolute()
    # A relative XDG path is invalid by the specification and has to be ignored.
    configured = Path(os.environ.get(variable, ""))
    return (configured if configured.is_absolute() else Path.home() / default) / "pc-engine"


def cache_key(facts: Mapping[str, Any]) -> str:
    """Return a file name that stands for ``facts``, JSON-ready values that together decide a cached file's contents."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


class FileCache:
    """Files in a private folder, written atomically and verified before use.

    Beside each file lies its sha256. A file that is cut short, changed, or lacks its sum does not exist as far as
    `get` is concerned, so that it is made anew.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = cache_directory() if directory is None else directory

    def get(self, name: str) -> Path | None:
        """Return the path of a file that is there and whole, else None."""
        path = self._directory / name
        try:
            expected = self._sum(path).read_text(encoding="ascii").strip()
            return path if file_sha256(path) == expected else None
        except (OSError, ValueError):
            return None

    def put(self, name: str, write: Callable[[Path], object]) -> Path:
        """Create a file by ``write(temporary path)`` and return its final path.

        Raises
        ------
        OSError
            If the folder cannot be written. A cache is a convenience: callers go on without.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        path = self._directory / name
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            temporary = Path(scratch) / name
            write(temporary)
            digest = Path(scratch) / "digest"
            digest.write_text(file_sha256(temporary) + "\n", encoding="ascii")
            # Between the two renames the old sum stands beside the new file: a mismatch, hence a rebuild.
            temporary.replace(path)
            digest.replace(self._sum(path))
        return path

    def get_json(self, name: str) -> dict[str, Any] | None:
        """Return the contents of a cached JSON object, or None."""
        path = self.get(name)
        return None if path is None else dict(json.loads(path.read_text(encoding="utf-8")))

    def put_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a JSON object; a folder that cannot be written is not an error."""
        with contextlib.suppress(OSError):
            self.put(name, lambda path: path.write_text(json.dumps(value, indent=1), encoding="utf-8"))

    @staticmethod
    def _sum(path: Path) -> Path:
        return path.with_name(path.name + ".sha256")
