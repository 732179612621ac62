"""What a run directory says of its runs: whether one is at work there, and ``run.json``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import filelock

from pc_engine.errors import UsageError
from pc_engine.files.json_values import is_number, is_whole
from pc_engine.files.locks import file_lock
from pc_engine.sources.run_folders import RUN_FILE, state_files
from pc_engine.sources.sharding import Shard

_SECONDS_TO_LOOK = 1.0

State = Literal["running", "interrupted", "finished"]


@dataclass
class Tally:
    """What rows are summed up to.

    Attributes
    ----------
    n, failed
        Rows, and those of images that could not be done.
    labels
        Rows by count label.
    """

    n: int = 0
    failed: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, *, ok: bool, label: str | None) -> None:
        """Add one row."""
        self.n += 1
        self.failed += not ok
        if label is not None:
            self.labels[label] += 1

    def update(self, other: Tally) -> None:
        """Add the rows of another one."""
        self.n += other.n
        self.failed += other.failed
        self.labels.update(other.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "n": self.n,
            "ok": self.n - self.failed,
            "failed": self.failed,
            "counts": dict(sorted(self.labels.items())),
        }


def state_file(directory: Path, shard: Shard | None = None) -> Path:
    """Return the path of ``run.json``, or of a shard's own."""
    return directory / (RUN_FILE if shard is None else f"run-{shard}.json")


def states(directory: Path) -> list[dict[str, Any]]:
    """Return what is known about the run, or each shard of it, in a directory."""
    return [state for state in map(read_state, state_files(directory)) if state is not None]


def started_in(directory: Path) -> list[Path]:
    """Return the folders that the run, or each shard of it, was started in, of those that are there."""
    said = dict.fromkeys(state["folder"] for state in states(directory) if "folder" in state)
    return [Path(folder) for folder in said if os.path.isabs(folder) and os.path.isdir(folder)]


def is_running(directory: Path, shard: Shard | None = None) -> bool:
    """Whether a process writes into the directory right now; as ``run.json`` says where its lock cannot be taken."""
    return state_at_rest(directory, shard) is None


def state_at_rest(directory: Path, shard: Shard | None = None) -> dict[str, Any] | None:
    """Return what ``run.json`` says while no process writes into the directory; None if one does right now.

    A run may end while its lock is waited for: what the file said before that is no longer so.
    """
    path = state_file(directory, shard)
    if not lock_file(directory, shard).exists():
        return read_state(path) or {}
    try:
        lock = lock_run(directory, shard)
    except UsageError:
        return None
    except OSError:  # of somebody else, or on a disk that takes nothing
        state = read_state(path) or {}
        return None if state.get("state") == "running" else state
    try:
        return read_state(path) or {}
    finally:
        lock.release()


def lock_run(directory: Path, shard: Shard | None = None) -> filelock.BaseFileLock:
    """Take the lock of whoever writes the run, or shard, into a directory; raise `UsageError` if it is not free."""
    # Who looks how far a run has come holds it for a moment.
    lock = file_lock(lock_file(directory, shard), _SECONDS_TO_LOOK)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UsageError(
            f"Another run is writing into {directory}: wait for it, or choose another folder. To share one run among "
            "several processes, give each its --shard."
        ) from None
    return lock


def lock_file(directory: Path, shard: Shard | None) -> Path:
    """Return the path of the file that `lock_run` locks."""
    return directory / (".run.lock" if shard is None else f".run-{shard}.lock")


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what a ``run.json`` holds; None if there is none, or it is damaged.

    What others rely on has the form that a run gives it, or is left out.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(state, dict):
        return None
    return {name: value for name, value in state.items() if name not in _FORMS or _FORMS[name](value)}


def _is_shard(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(map(is_whole, value))
    return value is None or (is_pair and 1 <= value[0] <= value[1])


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "state": lambda value: value in get_args(State),
    "settings": lambda value: isinstance(value, dict),
    "stages": lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    "shard": _is_shard,
    "total": lambda value: value is None or is_whole(value),
    "seconds": is_number,
    "images_per_second": lambda value: value is None or is_number(value),
    "workers": is_whole,
    "waiting": is_whole,
    "folder": lambda value: isinstance(value, str),
}
