"""Where pc-engine keeps files on this machine: models, and a private cache of what was compiled here.

``PC_ENGINE_HOME`` moves both; else models live under the user's data folder, the cache under the user's cache folder
(``XDG_DATA_HOME``, ``XDG_CACHE_HOME``).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pc_engine.errors import UsageError, system_reason
from pc_engine.files.digest import file_sha256
from pc_engine.files.durable import rename
from pc_engine.shown_text import for_shell

#: The folder of the models that are part of the package.
EMBEDDED_MODELS = Path(__file__).parents[1] / "embedded"

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_UNFINISHED = "unfinished-"
_SUM = ".sha256"
# What is still unfinished after so many seconds was left by a process that was killed.
_ABANDONED = 86_400.0
# What nobody asked for in so many seconds, such as networks for versions of before, makes room.
_UNUSED = 90 * 86_400.0
# When a file was last asked for is noted once in so many.
_NOTED_EVERY = 86_400.0


def models_directory() -> Path:
    """Return the folder of installed models; it may not exist yet."""
    return _base("XDG_DATA_HOME", ".local/share") / "models"


def models_complaint() -> str:
    """Return a sentence that says why it cannot be told which models are installed; empty where it can."""
    directory = models_directory()
    try:
        os.scandir(directory).close()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return (
            f"Installed models are not listed: the folder {directory} cannot be read ({system_reason(error)}). "
            "Set PC_ENGINE_HOME to another."
        )
    return ""


def model_argument(directory: Path) -> str:
    """Return what ``--model`` takes for the model in a directory: its name where it has one, else its path.

    It is for commands that people copy to a shell, and quoted where that would take it for several words.
    """
    if directory.parent in (EMBEDDED_MODELS, models_directory()):
        return for_shell(directory.name)
    is_hidden = directory.parent == Path() and (EMBEDDED_MODELS / directory).is_dir()
    return for_shell(str(directory.absolute() if is_hidden else directory))


def cache_directory() -> Path:
    """Return the folder of compiled networks and of what was measured on this machine; it may not exist yet."""
    return _base("XDG_CACHE_HOME", ".cache") / "compiled"


def cache_bytes() -> int:
    """Return how much disk the cache takes."""
    total = 0
    with contextlib.suppress(OSError):
        for path in cache_directory().iterdir():
            with contextlib.suppress(OSError):  # another process may have removed it
                total += path.stat().st_size if path.is_file() else 0
    return total


def _base(variable: str, default: str) -> Path:
    home = os.environ.get("PC_ENGINE_HOME")
    if home:
        try:
            return Path(home).expanduser().absolute()
        except RuntimeError:  # of a user whom the system does not know
            raise UsageError(
                f"PC_ENGINE_HOME is {home}, but there is no such home folder: give its full path."
            ) from None
    # A relative XDG path is invalid by the specification and has to be ignored.
    configured = Path(os.environ.get(variable, ""))
    if configured.is_absolute():
        return configured / "pc-engine"
    try:
        return Path.home() / default / "pc-engine"
    except RuntimeError:  # a user whom the system does not know, as in some containers
        raise UsageError("There is no home folder to keep models in: name one with PC_ENGINE_HOME.") from None


def cache_key(facts: Mapping[str, Any]) -> str:
    """Return a file name that stands for ``facts``, JSON-ready values that together decide a cached file's contents.

    It stands for this version of pc-engine as well.
    """
    known = {**facts, "pc_engine": version("pc-engine")}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:40]


def distrust(place: Path) -> str:
    """Return why another user could have written what is at ``place``, a clause; empty where nobody else could.

    Raises
    ------
    OSError
        If there is nothing.
    """
    if not hasattr(os, "getuid"):
        return ""  # on Windows the user's cache folder is the user's by its access list
    status = place.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"{place} is a symbolic link"
    if status.st_uid != os.getuid():
        return f"{place} is another user's"
    return f"{place} is this user's, but others may write to it" if status.st_mode & _WRITABLE_BY_OTHERS else ""


class FileCache:
    """Files in a private folder, written atomically and verified before use.

    Beside each file lies its sha256. A file that is cut short, changed, or lacks its sum does not exist as far as
    `get` is concerned, so that it is made anew; nor does one that another user could have written, sum and all. What
    was not asked for in three months goes when something new comes.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = cache_directory() if directory is None else directory

    def get(self, name: str) -> Path | None:
        """Return the path of a file that is there, whole, and this user's own, else None."""
        path = self._directory / name
        try:
            if any(map(distrust, (self._directory.resolve(), path, self._sum(path)))):
                return None
            if self._sum(path).read_bytes() != _sum_line(path):
                return None
        except OSError:
            return None
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _NOTED_EVERY:
                os.utime(path)
        return path

    def put(self, name: str, write: Callable[[Path], object]) -> Path:
        """Create a file by ``write(temporary path)`` and return its final path.

        Raises
        ------
        OSError
            If the folder cannot be written, or is not this user's own. A cache is a convenience: callers go on without.
        """
        self._make_private()
        self._remove_abandoned()
        self._remove_unused()
        path = self._directory / name
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=self._directory) as scratch:
            temporary = Path(scratch) / name
            write(temporary)
            temporary.chmod(0o600)
            digest = Path(scratch) / "digest"
            digest.touch(mode=0o600)
            digest.write_bytes(_sum_line(temporary))
            # Wherever this is cut off, a sum stands beside a file that is not its own, or alone: hence a rebuild.
            rename(temporary, path)
            rename(digest, self._sum(path))
        return path

    def get_json(self, name: str) -> dict[str, Any] | None:
        """Return the contents of a cached JSON object, or None."""
        path = self.get(name)
        return None if path is None else dict(json.loads(path.read_text(encoding="utf-8")))

    def put_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a JSON object; a folder that cannot be written is not an error."""
        with contextlib.suppress(OSError):
            self.put(name, lambda path: path.write_text(json.dumps(value, indent=1), encoding="utf-8"))

    def complaint(self) -> str:
        """Return a sentence that says why nothing can be kept here; empty where it can."""
        try:
            self._make_private()
        except OSError as error:
            return (
                f"Nothing is kept for later runs: the folder {self._directory} cannot be used "
                f"({system_reason(error)}). Set PC_ENGINE_HOME to another."
            )
        return ""

    def _make_private(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        reason = distrust(self._directory.resolve())
        if reason:
            raise PermissionError(errno.EPERM, reason)

    def _remove_abandoned(self) -> None:
        for path in self._directory.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > _ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)

    def _remove_unused(self) -> None:
        for path in self._directory.iterdir():
            with contextlib.suppress(OSError):
                if path.is_file() and time.time() - path.stat().st_mtime > _UNUSED:
                    # A sum alone is as old as what it is of was when it was made.
                    used = path.with_name(path.name.removesuffix(_SUM))
                    if used == path or not used.exists():
                        path.unlink()
                        self._sum(path).unlink(missing_ok=True)

    @staticmethod
    def _sum(path: Path) -> Path:
        return path.with_name(path.name + _SUM)


def _sum_line(path: Path) -> bytes:
    # With its name, so that a file that was given another one is not taken for that.
    return f"{file_sha256(path)}  {path.name}\n".encode()
