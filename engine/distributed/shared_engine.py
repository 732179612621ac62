"""A run by several workers: what is the same whoever starts them, on other machines or on this one.

Names alone travel, through files of the run directory (`pc_engine.runs.block_folder`): the driver lists the
sources, a few blocks ahead of the workers, and each worker reads its images and writes its rows where all see them.
What is passed on is the blocks' numbers and what became of them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pc_engine.distributed.block_listing import BlockListing
from pc_engine.distributed.block_worker import BlockAnswer, Choice, Refusal, WorkerSettings
from pc_engine.manifest import MANIFEST_FILE
from pc_engine.runs.block_folder import BlockFolder
from pc_engine.runs.run_state import Tally
from pc_engine.say import Say
from pc_engine.sources import SourceImage
from pc_engine.stage_clock import StageClock

# A block is a partition, and what is lost with a worker: about half a minute's work on a few cores, less on a GPU.
_MOST_ON_CPU, _MOST_ON_GPU = 1_000, 10_000
# Blocks that each worker has or is about to get, and those on the way to them.
_BLOCKS_AHEAD, _BLOCKS_ON_THE_WAY = 4, 8

#: Is told the number of blocks so far, and whether these are all.
Announce = Callable[[int, bool], object]


@dataclass(frozen=True)
class SharedRun:
    """What a run is shared out with; the same for every kind of workers.

    Attributes
    ----------
    blocks
        A folder of the run directory, by `RunDirectory.share`.
    sources
        The run's sources.
    overlays
        Where pictures go; None for none.
    report
        Called with a sentence for the user now and then.
    """

    blocks: BlockFolder
    sources: Sequence[str]
    overlays: Path | None = None
    report: Say = lambda _: None


class SharedEngine(ABC):
    """`pc_engine.Engine` on several workers. Use it as a context manager.

    Backend and precision are chosen by one worker, for all of them: the driver may have no GPU.

    Attributes
    ----------
    workers
        How many there are.
    clock
        Seconds that they spent in each stage so far, all together.
    first_of_several
        Number of files so far that hold several pictures, see `pc_engine.Engine`.
    """

    workers: int

    def __init__(self) -> None:
        self.clock = StageClock()
        self.first_of_several = 0

    def _begin(self, run: SharedRun, options: Mapping[str, Any]) -> None:
        """Let one worker choose for all; called by a subclass once it can start workers.

        Raises
        ------
        PcEngineError
            If the workers cannot do what is asked for.
        """
        settings = WorkerSettings(
            blocks=run.blocks,
            engine={**options, "model": _portable(options["model"])},
            identity=None,
            sources=tuple(run.sources),
            folder=Path.cwd(),
            version=version("pc-engine"),
            overlays=None if run.overlays is None else run.overlays.absolute(),
        )
        choice = self._choose(settings)
        for remark in choice.remarks:
            run.report(remark)
        if choice.refusal is not None:
            raise choice.refusal.error()
        self._choice = choice
        self._most = _MOST_ON_CPU if choice.about["device"] == "cpu" else _MOST_ON_GPU
        chosen = {name: choice.about[name] for name in ("backend", "precision", "device", "batch_size")}
        self._settings = replace(
            settings, engine={**settings.engine, **chosen, "model": choice.model}, identity=choice.identity
        )

    @abstractmethod
    def _choose(self, settings: WorkerSettings) -> Choice:
        """Return what `pc_engine.distributed.block_worker.choose` gives where a worker is."""

    @abstractmethod
    def _answers(self) -> tuple[Announce, Iterator[BlockAnswer]]:
        """Return whom to tell of the blocks, and what becomes of these, each maybe more than once."""

    @abstractmethod
    def close(self) -> None:
        """End what was started here."""

    def identity(self) -> dict[str, Any]:
        """Return `Engine.identity` of every worker."""
        return dict(self._choice.identity)

    def describe(self) -> dict[str, Any]:
        """Return `Engine.describe` of every worker, and how many there are."""
        return {**self._choice.about, "workers": self.workers}

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
        blocks = self._settings.blocks
        announce, answers = self._answers()
        listing = BlockListing(
            images,
            blocks,
            announce,
            workers=self.workers,
            most=self._most,
            ahead=_BLOCKS_ON_THE_WAY + _BLOCKS_AHEAD * self.workers,
            stop=stop,
        )
        refusal: Refusal | None = None
        with listing:
            for answer in answers:
                if not listing.done(answer.block):
                    continue
                if answer.refusal is not None:
                    refusal = refusal or answer.refusal
                    listing.give_up()
                    continue
                for stage, seconds in answer.stages.items():
                    self.clock.seconds[stage] += seconds
                self.first_of_several += answer.first_of_several
                yield answer.tally
        if listing.error is not None:
            raise listing.error
        if refusal is not None:
            raise refusal.error()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _portable(model: object) -> str | None:
    """Return the model as workers elsewhere understand it, which start in another folder."""
    if model is None or not (Path(str(model)) / MANIFEST_FILE).is_file():
        return None if model is None else str(model)
    return os.path.abspath(str(model))
