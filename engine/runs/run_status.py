"""How far the runs into a directory have come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pc_engine.errors import UsageError
from pc_engine.runs.corrections import read_corrections
from pc_engine.runs.partition_names import partitions_of
from pc_engine.runs.run_state import Tally, state_at_rest, states
from pc_engine.runs.writers import rows_of
from pc_engine.sources.sharding import Shard

#: ``"stopped"``: neither finished nor interrupted, and no process writes any more: it was killed, or the machine was.
Condition = Literal["running", "interrupted", "finished", "stopped"]


@dataclass(frozen=True)
class RunPart:
    """A run, or one shard of it, as its ``run.json`` has it.

    Attributes
    ----------
    total
        Images in its sources; None where not known yet.
    by_workers
        Whether workers share it: its rows come by blocks of images, and not by partitions.
    waiting
        Images that are done and whose rows come with the next partition, if the run comes to that.
    """

    shard: Shard | None
    condition: Condition
    total: int | None
    images_per_second: float | None
    by_workers: bool = False
    waiting: int = 0


@dataclass(frozen=True)
class Failure:
    """A reason why images failed, how many did, and the path of one."""

    error: str
    n: int
    example: str


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
        Reasons why images failed, the most frequent first.
    settings
        What the rows were made with; None if no ``run.json`` says so.
    reviewed
        Images that people reviewed.
    """

    parts: tuple[RunPart, ...]
    tally: Tally
    errors: tuple[Failure, ...]
    settings: dict[str, Any] | None
    reviewed: int

    @property
    def condition(self) -> Condition:
        """That of the whole; see `whole_condition`."""
        return whole_condition(self.parts)

    @property
    def total(self) -> int | None:
        """Images in the sources; None if that is not known of every part, or rows are of other sources, too."""
        totals = [part.total for part in self.parts]
        if not totals or None in totals or self.shards_not_begun:
            return None
        total = sum(filter(None, totals))
        return total if total >= self.tally.n else None

    @property
    def images_per_second(self) -> float | None:
        """Of all parts that run at present, or where none does of all; None if that is not known of any."""
        running = [part for part in self.parts if part.condition == "running"]
        rates = [part.images_per_second for part in running or self.parts if part.images_per_second is not None]
        return sum(rates) if rates else None

    @property
    def waiting(self) -> int:
        """Images done by runs at work whose rows come with the next partition."""
        return sum(part.waiting for part in self.parts if part.condition == "running")

    @property
    def shards_not_begun(self) -> int:
        """Number of shards that no process began."""
        return count_not_begun(self.parts)

    def first_not_begun(self, most: int) -> list[str]:
        """Return the first shards that no process began, such as ``2/16``."""
        of = next((part.shard.of for part in self.parts if part.shard is not None), 0)
        begun = {part.shard.index for part in self.parts if part.shard is not None}
        return [f"{index}/{of}" for index in islice((k for k in range(1, of + 1) if k not in begun), most)]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "state": self.condition,
            "total": self.total,
            **self.tally.to_dict(),
            "waiting": self.waiting,
            "images_per_second": None if self.images_per_second is None else round(self.images_per_second, 2),
            "reviewed": self.reviewed,
            "errors": [asdict(failure) for failure in self.errors],
            "shards": [
                {"shard": part.shard.option, "state": part.condition, "total": part.total}
                for part in self.parts
                if part.shard is not None
            ],
            "shards_not_begun": self.shards_not_begun,
            "settings": self.settings,
        }


def read_status(directory: Path) -> RunStatus:
    """Return how far the runs into ``directory`` have come; they may go on meanwhile.

    Raises
    ------
    UsageError
        If it is no run directory.
    PcEngineError
        If a partition, or what people corrected, is damaged.
    """
    known = states(directory)
    parts = run_parts(directory, known)
    partitions = partitions_of(directory)
    if not parts and not partitions:
        raise UsageError(f"{directory} is not a run directory: name the folder given to 'pc-engine run --out'.")
    tally, errors, examples = Tally(), Counter[str](), dict[str, str]()
    for path in partitions:
        for row in rows_of(path, ("path", "status", "count_label", "error")):
            tally.add(ok=row["status"] == "ok", label=row["count_label"])
            if row["error"] is not None:
                errors[row["error"]] += 1
                examples.setdefault(row["error"], row["path"])
    settings = next((state["settings"] for state in known if "settings" in state), None)
    failures = tuple(Failure(error, n, examples[error]) for error, n in errors.most_common())
    return RunStatus(parts, tally, failures, settings, len(read_corrections(directory)))


def condition_of(directory: Path) -> Condition | None:
    """Return the condition of the runs into ``directory``; None where no ``run.json`` says it. Rows are not read."""
    parts = run_parts(directory, states(directory))
    return whole_condition(parts) if parts else None


def run_parts(directory: Path, known: Sequence[dict[str, Any]]) -> tuple[RunPart, ...]:
    """Return what ``known`` states tell of a run, or of each of its shards that was begun; its rows are not read."""
    parts = (_part(directory, state) for state in known)
    return tuple(sorted(parts, key=lambda part: (0, 0) if part.shard is None else (part.shard.of, part.shard.index)))


def whole_condition(parts: Sequence[RunPart]) -> Condition:
    """Return the condition of a run with these parts: of theirs the one that needs the most attention."""
    conditions = {part.condition for part in parts} or {"stopped"}
    if conditions == {"finished"} and count_not_begun(parts):
        return "stopped"
    order: tuple[Condition, ...] = ("running", "stopped", "interrupted", "finished")
    return next(condition for condition in order if condition in conditions)


def count_not_begun(parts: Sequence[RunPart]) -> int:
    """Return the number of shards that no process began, which have no part."""
    of = next((part.shard.of for part in parts if part.shard is not None), len(parts))
    return of - len(parts)


def _part(directory: Path, state: dict[str, Any]) -> RunPart:
    shard = Shard(*state["shard"]) if state.get("shard") else None
    at_rest = state_at_rest(directory, shard)
    condition: Condition = "running"
    if at_rest is not None:
        state = at_rest or state
        condition = state.get("state", "stopped")
        if condition == "running":
            condition = "stopped"
    rate, waiting = state.get("images_per_second"), state.get("waiting", 0)
    return RunPart(shard, condition, state.get("total"), rate, "workers" in state, waiting)
