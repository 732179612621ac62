"""``run.json`` as a run writes it: what it is made with, how far it has come, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pc_engine.files.durable import publish_json
from pc_engine.runs.run_state import State, Tally, read_state, state_file
from pc_engine.runs.writers import cannot_write
from pc_engine.sources.sharding import Shard


class RunFile:
    """The ``run.json`` of a run, or of a shard, by the process that holds its lock.

    Parameters
    ----------
    directory, shard
        Whose it is.
    fresh
        Whether the run begins anew, whatever the file says.

    Attributes
    ----------
    path
        Where it is.
    before
        What it said when it was opened; empty where there was none, or the run is ``fresh``.
    total
        How many images the sources hold, once that is known.
    waiting
        Rows that wait for their partition.
    """

    def __init__(self, directory: Path, shard: Shard | None, *, fresh: bool) -> None:
        self.path = state_file(directory, shard)
        self.before: Mapping[str, Any] = {} if fresh else read_state(self.path) or {}
        self.total: int | None = None
        self.waiting = 0
        self._shard = shard
        self._started = self.before.get("started")
        self._settings: Mapping[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._start = self._saved = time.monotonic()

    @property
    def stages_before(self) -> dict[str, float]:
        """Seconds that each stage of the runs before took."""
        stages: dict[str, float] = self.before.get("stages", {})
        return stages

    @property
    def seconds(self) -> float:
        """Wall-clock seconds that this run, from `begin` on, and those before it took."""
        return float(self.before.get("seconds") or 0.0) + time.monotonic() - self._start

    def begin(self, settings: Mapping[str, Any], about: Mapping[str, Any], tally: Tally) -> None:
        """Save what the rows are made with, and what else there is to say of the run; the clock starts."""
        self._settings, self._summary = settings, dict(about)
        self._started = self._started or _now()
        self._start = time.monotonic()
        self.save("running", tally)

    def save_if_older(self, seconds: float, tally: Tally) -> None:
        """Save how far the run has come, unless that was done less than so many seconds ago."""
        if time.monotonic() - self._saved >= seconds:
            self.save("running", tally)

    def end(self, state: State, summary: Mapping[str, Any], tally: Tally) -> None:
        """Save what the run comes to."""
        self._summary |= summary
        self.save(state, tally)

    def save(self, state: State, tally: Tally) -> None:
        """Write the file.

        Raises
        ------
        PcEngineError
            If it cannot be written.
        """
        seconds = self.seconds
        content = {
            "state": state,
            "pc_engine": version("pc-engine"),
            "settings": self._settings,
            "shard": None if self._shard is None else [self._shard.index, self._shard.of],
            "started": self._started,
            "updated": _now(),
            "total": self.total,
            "stages": self.stages_before,
            **self._summary,
            **tally.to_dict(),
            "waiting": self.waiting,
            "seconds": round(seconds, 3),
            "images_per_second": round(tally.n / seconds, 2) if seconds > 0 else None,
        }
        self._saved = time.monotonic()
        try:
            publish_json(self.path, content)
        except OSError as error:
            raise cannot_write(self.path, error) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
