"""A run on many machines: Ray starts workers where there are GPUs or cores, and hands them blocks of images.

Names alone travel, through files of the run directory (`pc_engine.block_folder`): the driver lists the sources, a few
blocks ahead of the workers, and each worker reads its images and writes its rows where all machines see them. What Ray
carries is the blocks' numbers and what became of them. Its data set is the numbers 0, 1, 2 ... as they come to exist:
should Ray read it again from its beginning, since a machine was lost, it gets the same numbers, and they mean the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pc_engine.distributed.block_folder import BlockFolder
from pc_engine.distributed.block_listing import BlockListing
from pc_engine.distributed.block_worker import (
    ANSWER,
    BlockAnswer,
    BlockWorker,
    Refusal,
    WorkerSettings,
    choose,
    parse_answer,
)
from pc_engine.distributed.ray_cluster import (
    block_numbers,
    connect,
    failed,
    plan_pool,
    start_announcements,
    streaming,
)
from pc_engine.errors import UsageError
from pc_engine.manifest import MANIFEST_FILE
from pc_engine.pipeline import StageClock
from pc_engine.run_state import Tally
from pc_engine.sources import SourceImage

# A block is a partition, and what is lost with a worker: about half a minute's work on a few cores, less on a GPU.
_MOST_ON_CPU, _MOST_ON_GPU = 1_000, 10_000
# Blocks that each worker has or is about to get, and those that Ray holds on the way.
_BLOCKS_AHEAD, _BLOCKS_ON_THE_WAY = 4, 8
_IN_FLIGHT = 2


class RayEngine:
    """`pc_engine.Engine` on all machines of a Ray cluster. Use it as a context manager.

    Backend and precision are chosen by one worker, for all of them: the driver's machine may have no GPU.

    Parameters
    ----------
    blocks
        A folder of the run directory, by `RunDirectory.share`.
    sources
        The run's sources.
    address
        Of a Ray cluster, ``"auto"``, or None for what ``RAY_ADDRESS`` says, else this machine alone.
    cpus
        Cores of a worker; see `plan_pool`.
    overlays, first_overlay
        Where pictures go, None for none, and the number of the first one.
    report
        Called with a sentence for the user now and then.
    options
        Of `Engine`, save ``threads`` and ``report``.

    Attributes
    ----------
    pool
        The workers.
    clock
        Seconds that they spent in each stage so far, all together.

    Raises
    ------
    PcEngineError
        If there is no cluster, or its machines cannot do what is asked for; a `MissingPackageError` without Ray.
    """

    def __init__(
        self,
        blocks: BlockFolder,
        sources: Sequence[str],
        *,
        address: str | None = None,
        cpus: int | None = None,
        overlays: Path | None = None,
        first_overlay: int = 0,
        report: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> None:
        if options["device"].startswith("cuda:"):
            raise UsageError("With --engine ray, Ray says which GPU a worker has: use --device cuda.")
        if cpus is not None and cpus < 1:
            raise UsageError(f"--ray-cpus is {cpus}, expected a number of at least 1.")
        self._ray, self._started = connect(address)
        try:
            machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.pool = plan_pool(machines, options["device"], cpus)
            report(f"Asking Ray for {self.pool} ...")
            device = options["device"] if self.pool.gpus else "cpu"
            settings = WorkerSettings(
                blocks=blocks,
                engine={
                    **options,
                    "model": _portable(options["model"]),
                    "device": device,
                    "threads": max(self.pool.cpus, 1),
                },
                identity=None,
                sources=tuple(sources),
                folder=Path.cwd(),
                version=version("pc-engine"),
                overlays=None if overlays is None else overlays.absolute(),
                first_overlay=first_overlay,
            )
            choice = self._call(choose, settings)
            for remark in choice.remarks:
                report(remark)
            if choice.refusal is not None:
                raise choice.refusal.error()
        except BaseException:
            self.close()
            raise
        self._choice = choice
        chosen = {name: choice.about[name] for name in ("backend", "precision", "device", "batch_size")}
        self._settings = replace(
            settings, engine={**settings.engine, **chosen, "model": choice.model}, identity=choice.identity
        )
        self.clock = StageClock()

    def identity(self) -> dict[str, Any]:
        """Return `Engine.identity` of every worker."""
        return dict(self._choice.identity)

    def describe(self) -> dict[str, Any]:
        """Return `Engine.describe` of every worker, and how many there are."""
        return {**self._choice.about, "workers": self.pool.workers}

    def run(self, images: Iterable[SourceImage], stop: Callable[[], bool] = lambda: False) -> Iterator[Tally]:
        """Let the workers do the images, and yield what each finished block holds.

        Parameters
        ----------
        images
            The images, by their names; listed a few blocks ahead of the workers.
        stop
            Whether the run is asked to end. The workers then keep what they have, and the rest is left out.

        Raises
        ------
        PcEngineError
            If it cannot go on. What other workers had done by then is in the run directory, and was yielded.
        """
        blocks, pool = self._settings.blocks, self.pool
        announcements = start_announcements(self._ray)
        listing = BlockListing(
            images,
            blocks,
            announcements.announce.remote,
            workers=pool.workers,
            most=_MOST_ON_GPU if pool.gpus else _MOST_ON_CPU,
            ahead=_BLOCKS_ON_THE_WAY + _BLOCKS_AHEAD * pool.workers,
            stop=stop,
        )
        refusal: Refusal | None = None
        with listing:
            for answer in self._answers(announcements):
                if not listing.done(answer.block):
                    continue
                if answer.refusal is not None:
                    refusal = refusal or answer.refusal
                    blocks.stop()
                    continue
                for stage, seconds in answer.stages.items():
                    self.clock.seconds[stage] += seconds
                yield answer.tally
        if listing.error is not None:
            raise listing.error
        if refusal is not None:
            raise refusal.error()

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._started:
            self._started = False
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function gives on a machine with what a worker has."""
        remote = self._ray.remote(num_cpus=self.pool.cpus, num_gpus=self.pool.gpus)(function)
        try:
            return self._ray.get(remote.remote(*arguments))
        except self._ray.exceptions.RayError as error:
            raise failed(error) from None

    def _answers(self, announcements: Any) -> Iterator[BlockAnswer]:
        ray, pool = self._ray, self.pool
        with streaming(ray):
            answers = block_numbers(ray, announcements).map_batches(
                BlockWorker,
                fn_constructor_args=(self._settings,),
                batch_size=1,
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                compute=ray.data.ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
            )
        try:
            for batch in answers.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                yield from map(parse_answer, map(str, batch[ANSWER]))
        except ray.exceptions.RayError as error:
            raise failed(error) from None


def _portable(model: object) -> str | None:
    """Return the model as other machines understand it: workers start in another folder."""
    if model is None or not (Path(str(model)) / MANIFEST_FILE).is_file():
        return None if model is None else str(model)
    return os.path.abspath(str(model))
