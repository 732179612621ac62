"""What ``pc-engine run`` was asked for, checked before anything is listed or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pc_engine.decoding.settings import Decoding
from pc_engine.errors import UsageError
from pc_engine.selection.execution import Execution
from pc_engine.sources import DEMO
from pc_engine.sources.run_folders import OVERLAYS
from pc_engine.sources.sharding import Shard

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class EngineOptions:
    """What each `pc_engine.Engine` of a run is made with; ``mode`` and ``model`` are None where they were left out."""

    mode: str | None
    model: str | None
    execution: Execution
    workers: int | None
    cluster: str | None
    classes: int | None
    pointer: str | None
    count: int | str | None
    decoding: Decoding


@dataclass(frozen=True)
class WorkerOptions:
    """Who does the images: this process, ``processes`` of this machine, or those of a Ray cluster."""

    engine: str
    processes: int | None
    ray_address: str | None
    ray_cpus: int | None

    @property
    def elsewhere(self) -> bool:
        """Whether machines do them of which this one knows nothing."""
        return self.engine == RAY

    @property
    def shared(self) -> bool:
        """Whether others do them than this process."""
        return self.engine != LOCAL or self.processes is not None

    def check(self, out: Path | None) -> None:
        """Refuse an engine that does not exist, is not installed, or does not go with the other options."""
        if self.engine not in (LOCAL, RAY):
            raise UsageError(f"There is no engine '{self.engine}': choose one of {LOCAL}, {RAY}.")
        for option, given in {"--ray-address": self.ray_address, "--ray-cpus": self.ray_cpus}.items():
            if given is not None and self.engine != RAY:
                raise UsageError(f"{option} is for runs on Ray: add --engine ray.")
        if self.processes is not None:
            if self.engine == RAY:
                raise UsageError("--processes is for this machine alone: omit it, as Ray starts its own workers.")
            if out is None:
                raise UsageError("--processes needs a directory that all share: say where with --out DIR.")
        if self.engine == RAY:
            if out is None:
                raise UsageError("--engine ray needs a directory that all machines share: say where with --out DIR.")
            from pc_engine.distributed.ray_cluster import require_ray

            require_ray()


@dataclass(frozen=True)
class DiskOptions:
    """What of a run is kept, and what becomes of an earlier one; ``shard`` is None where all images are its own."""

    out: Path | None
    row_format: str | None
    overlay: bool
    fresh: bool
    retry_failed: bool
    shard: Shard | None

    @property
    def overlays(self) -> Path | None:
        """The folder of pictures, be any drawn or not."""
        return None if self.out is None else self.out / OVERLAYS

    @property
    def pictures(self) -> Path | None:
        """The folder that pictures are drawn into; None for none."""
        return self.overlays if self.overlay else None


@dataclass(frozen=True)
class RunOptions:
    """All that a run was asked for; ``count_column`` is the column of tables that says each image's count."""

    sources: list[str]
    engine: EngineOptions
    workers: WorkerOptions
    disk: DiskOptions
    count_column: str | None
    quiet: bool
    as_json: bool

    @property
    def of_demo(self) -> bool:
        """Whether the demo's scenes are all that it goes through."""
        return {*self.sources} == {DEMO}


def require_out(out: Path | None, given: Mapping[str, bool]) -> None:
    """Refuse options that were ``given``, by their names, where there is no directory that they are about."""
    for option, is_given in given.items():
        if is_given and out is None:
            raise UsageError(f"{option} needs a directory to write to: say where with --out DIR.")
