"""The folder of a run, for one process that writes into it: made if need be, locked, and gone again if nothing came."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pc_engine.runs.run_state import lock_file, lock_run
from pc_engine.sources.sharding import Shard

_TRIES = 3


class Claim:
    """A folder that this process has the lock of, until `release`.

    Parameters
    ----------
    directory
        Created with the folders that lead to it.
    shard
        Which shard's lock it is.
    check
        Called before anything is written into the folder; may raise.

    Raises
    ------
    UsageError
        If another process has the lock.
    OSError
        If the folder cannot be made, or written.
    """

    def __init__(self, directory: Path, shard: Shard | None, check: Callable[[], None]) -> None:
        self._made: list[Path] = []  # the innermost first
        try:
            for tries_left in reversed(range(_TRIES)):
                lacking = [folder for folder in (directory, *directory.parents) if not folder.exists()]
                self._made = max(self._made, lacking, key=len)
                try:
                    directory.mkdir(parents=True, exist_ok=True)
                    check()
                    self._found_lock = not self._made and lock_file(directory, shard).exists()
                    self._lock = lock_run(directory, shard)
                    break
                except FileNotFoundError:  # another process had made it, and nothing came of its run
                    if not tries_left:
                        raise
        except BaseException:
            self._unmake()
            raise

    def release(self, *, in_vain: bool = False) -> None:
        """Let others have the lock; where the run was ``in_vain``, its file goes, and empty folders made for it."""
        locked = Path(self._lock.lock_file)
        goes = in_vain and not self._found_lock  # that of an earlier run stays
        # While it is held, as afterwards there may be another's; Windows removes no file that is open.
        if goes and os.name != "nt":
            with suppress(OSError):
                locked.unlink()
        self._lock.release()
        if goes and os.name == "nt":
            with suppress(OSError):
                locked.unlink(missing_ok=True)
        if in_vain:
            self._unmake()

    def _unmake(self) -> None:
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()
