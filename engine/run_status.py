"""How far the runs into a directory have come."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pc_engine.errors import UsageError
from pc_engine.run_state import Tally, is_running, states
from pc_engine.sharding import Shard
from pc_engine.writers import partitions_of, rows_of

#: ``"stopped"``: neither finished nor interrupted, and no process writes any more: it was killed, or the machine was.
Condition = Literal["running", "interrupted", "finished", "stopped"]


@dataclass(frozen=True)
class RunPart:
    """A run, or one shard of it, as its ``run.json`` has it; ``total`` images are None where not known yet."""

    shard: Shard | None
    condition: Condition
    total: int | None
    images_per_second: float | None


@dataclass(frozen=True)
class RunStatus:
    """What is in a run directory.

    Attributes
    ----------
    parts
        The run, or the shards that were begun.
    tally
        The rows that are whole on the disk.
    errors
        Reasons why images failed, and how many each, the most frequent first.
    settings
        What the rows were made with; None if no ``run.json`` says so.
    """

    parts: tuple[RunPart, ...]
    tally: Tally
    errors: tuple[tuple[str, int], ...]
    settings: dict[str, Any] | None

    @property
    def condition(self) -> Condition:
        """That of the whole: of the parts' the one that needs the most attention."""
        conditions = {part.condition for part in self.parts} or {"stopped"}
        # Shards that were not begun yet have no part here.
        if conditions == {"finished"} and self._absent:
            return "stopped"
        order: tuple[Condition, ...] = ("running", "stopped", "interrupted", "finished")
        return next(condition for condition in order if condition in conditions)

    @property
    def total(self) -> int | None:
        """Images in the sources; None if that is not known of every part."""
        totals = [part.total for part in self.parts]
        return None if not totals or None in totals or self._absent else sum(filter(None, totals))

    @property
    def images_per_second(self) -> float:
        """Of all parts that run at present."""
        return sum(part.images_per_second or 0.0 for part in self.parts if part.condition == "running")

    @property
    def _absent(self) -> int:
        """Number of shards that were not begun."""
        of = next((part.shard.of for part in self.parts if part.shard is not None), len(self.parts))
        return of - len(self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "state": self.condition,
            "total": self.total,
            **self.tally.to_dict(),
            "images_per_second": round(self.images_per_second, 2),
            "errors": [{"error": reason, "n": n} for reason, n in self.errors],
            "shards": [
                {"shard": f"{part.shard.index}/{part.shard.of}", "state": part.condition, "total": part.total}
                for part in self.parts
                if part.shard is not None
            ],
            "settings": self.settings,
        }


def read_status(directory: Path) -> RunStatus:
    """Return how far the runs into ``directory`` have come; they may go on meanwhile.

    Raises
    ------
    UsageError
        If it is no run directory.
    PcEngineError
        If a partition is damaged.
    """
    known = states(directory)
    partitions = partitions_of(directory)
    if not known and not partitions:
        raise UsageError(f"{directory} is no run directory: name the folder given to 'pc-engine run --out'.")
    tally, errors = Tally(), Counter[str]()
    for path in partitions:
        for row in rows_of(path, ("status", "count_label", "error")):
            tally.add(ok=row["status"] == "ok", label=row["count_label"])
            if row["error"] is not None:
                errors[row["error"]] += 1
    parts = tuple(sorted((_part(directory, state) for state in known), key=lambda part: str(part.shard)))
    settings = next((state["settings"] for state in known if "settings" in state), None)
    return RunStatus(parts, tally, tuple(errors.most_common()), settings)


def _part(directory: Path, state: dict[str, Any]) -> RunPart:
    shard = Shard(*state["shard"]) if state.get("shard") else None
    said: Condition = state.get("state", "stopped")
    ended: Condition = "stopped" if said == "running" else said
    condition: Condition = "running" if is_running(directory, shard) else ended
    return RunPart(shard, condition, state.get("total"), state.get("images_per_second"))
