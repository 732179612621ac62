"""What does blocks of a run's images on whatever machine it is started: an engine, and a place for the rows.

It knows nothing of who hands out the blocks. Whatever it cannot do, it says in its answer: an exception would come to
whoever reads it as a traceback from another machine.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.decoding.decode import silence_codecs
from pc_engine.engine import Engine
from pc_engine.errors import ImageError, PcEngineError, UsageError, system_reason
from pc_engine.manifest import MANIFEST_FILE
from pc_engine.overlay import write_overlay
from pc_engine.runs.block_folder import Block, BlockFolder
from pc_engine.runs.run_state import Tally
from pc_engine.say import Say
from pc_engine.sources import SourceImage, iter_images, named_image, read_image
from pc_engine.sources.held_bytes import HeldBytes
from pc_engine.sources.image import broken_image
from pc_engine.sources.resolve import follows_others

#: Columns of the batches that a worker takes and returns: a block's number, and a `BlockAnswer` as JSON.
BLOCK, ANSWER = "block", "answer"
# Whether the run was asked to end is looked up on a file system that may be far away.
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Refusal:
    """Why a run cannot go on, and what the command line ends with then."""

    message: str
    exit_code: int

    def error(self) -> PcEngineError:
        """Return what to raise where the user is."""
        return UsageError(self.message) if self.exit_code == UsageError.exit_code else PcEngineError(self.message)


@dataclass(frozen=True)
class BlockAnswer:
    """What became of a block.

    Attributes
    ----------
    block
        Its number.
    tally
        The rows that it has now.
    stages
        Seconds that this worker spent in each stage on it.
    refusal
        Why there are none; None if all went well.
    first_of_several
        Number of files in it that hold several pictures, see `Engine`.
    """

    block: int
    tally: Tally = field(default_factory=Tally)
    stages: Mapping[str, float] = field(default_factory=dict)
    refusal: Refusal | None = None
    first_of_several: int = 0

    def to_json(self) -> str:
        """Return text that `parse_answer` takes."""
        return json.dumps({**vars(self), "tally": vars(self.tally), "refusal": self.refusal and vars(self.refusal)})


def parse_answer(text: str) -> BlockAnswer:
    """Return the answer that `BlockAnswer.to_json` wrote."""
    content = json.loads(text)
    tally, refusal = content["tally"], content["refusal"]
    return BlockAnswer(
        content["block"],
        Tally(tally["n"], tally["failed"], Counter(tally["labels"])),
        content["stages"],
        refusal and Refusal(**refusal),
        content["first_of_several"],
    )


@dataclass(frozen=True)
class WorkerSettings:
    """All that the workers of a run have in common.

    Attributes
    ----------
    blocks
        Where the blocks are, and where their rows go.
    engine
        What `Engine` is made with.
    identity
        What the rows of all workers depend on, by `Engine.identity`; None for the worker that is to find out.
    sources
        The run's sources, which every machine has to see.
    folder
        The folder that relative names begin at.
    version
        That of pc-engine.
    overlays
        Where pictures go; None for none.
    """

    blocks: BlockFolder
    engine: Mapping[str, Any]
    identity: Mapping[str, Any] | None
    sources: tuple[str, ...]
    folder: Path
    version: str
    overlays: Path | None = None


class BlockWorker:
    """Does the blocks that it is called with.

    Parameters
    ----------
    settings
        Those of the run. If they do not fit this machine, every answer says why.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        # A thread has its place in an archive, and that of the one that writes overlays is another.
        self._in_turn = ThreadPoolExecutor(1, thread_name_prefix="in turn")
        silence_codecs()
        try:
            self._engine = open_engine(settings)
        except Exception as error:
            self._refusal = _refusal(error)

    def __call__(self, batch: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, list[str]]:
        """Return the answers to a batch of blocks' numbers."""
        return {ANSWER: [self.answer(int(number)).to_json() for number in batch[BLOCK]]}

    def answer(self, number: int) -> BlockAnswer:
        """Do the block of that number; return what became of it."""
        if self._engine is None:
            return BlockAnswer(number, refusal=self._refusal)
        before, several = dict(self._engine.clock.seconds), self._engine.first_of_several
        try:
            tally = self._do(self._engine, number)
        except Exception as error:
            return BlockAnswer(number, refusal=_refusal(error))
        stages = {name: value - before.get(name, 0.0) for name, value in self._engine.clock.seconds.items()}
        several = self._engine.first_of_several - several
        return BlockAnswer(number, tally, stages, first_of_several=several)

    def _do(self, engine: Engine, number: int) -> Tally:
        blocks, overlays = self._settings.blocks, self._settings.overlays
        if blocks.stopped:
            return Tally()
        block = blocks.take(number)
        tally, rows = Tally(), []
        counts = dict(block.counts)
        images = _until_stopped(blocks, _images_of(block, self._in_turn))
        if counts:
            images = (replace(image, count=counts.get(place)) for place, image in enumerate(images))
        for result in engine.run_paths(images):
            tally.add(ok=result.ok, label=result.count_label)
            rows.append(result.to_dict())
            if overlays is not None:
                with engine.clock.measure("write"):
                    write_overlay(result, overlays, engine.decoders.decode)
        with engine.clock.measure("write"):
            blocks.write_rows(number, rows)
        return tally


def open_engine(settings: WorkerSettings, report: Say = lambda _: None) -> Engine:
    """Return the engine that these settings ask for, on this machine.

    Raises
    ------
    PcEngineError
        If it cannot be had, or would give rows of another kind than the other machines'.
    """
    here = platform.node()
    if version("pc-engine") != settings.version:
        raise UsageError(
            f"{here} has pc-engine {version('pc-engine')}, not {settings.version}: install the same on all machines."
        )
    if not settings.blocks.path.is_dir():
        raise UsageError(
            f"{here} does not see {settings.blocks.run} as the other machines do: choose a folder for --out that all "
            f"of them share."
        )
    try:
        os.chdir(settings.folder)
    except OSError as error:
        raise UsageError(
            f"{here} cannot enter {settings.folder} ({system_reason(error)}): start the run in a folder "
            f"that they all share."
        ) from None
    try:
        iter_images(settings.sources)  # says which of them does not exist
    except UsageError as error:
        raise UsageError(f"On {here}: {error}") from None
    engine = Engine(**{**settings.engine, "model": _model_here(settings.engine["model"])}, report=report)
    if settings.identity is None:
        return engine
    differences = [name for name, value in engine.identity().items() if settings.identity.get(name) != value]
    if differences:
        engine.close()
        raise UsageError(
            f"{here} would give other rows than the other machines ({', '.join(differences)} differ): put the same "
            f"model files on all of them, or on a file system that they share."
        )
    return engine


@dataclass(frozen=True)
class Choice:
    """What one worker found for all of them, or why it could not.

    Attributes
    ----------
    identity, about
        `Engine.identity` and `Engine.describe`.
    model
        Directory of the model.
    remarks
        Sentences for the user.
    refusal
        Why there is no engine; None if there is one.
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    remarks: tuple[str, ...] = ()
    refusal: Refusal | None = None


def choose(settings: WorkerSettings) -> Choice:
    """Return what an engine of these settings is on this machine; where they leave something open, it is chosen."""
    remarks: list[str] = []
    try:
        with open_engine(settings, remarks.append) as engine:
            directory = str(engine.model.directory.absolute())
            return Choice(engine.identity(), engine.describe(), directory, tuple(remarks))
    except Exception as error:
        return Choice(remarks=tuple(remarks), refusal=_refusal(error))


def _model_here(model: str | None) -> str | None:
    """Return the directory of a model, or its name where it is installed elsewhere on this machine."""
    if model is None or (Path(model) / MANIFEST_FILE).is_file() or not os.path.isabs(model):
        return model
    return Path(model).name


def _images_of(block: Block, in_turn: Executor) -> Iterator[SourceImage]:
    """Yield the images, of which some are known to be none: what lies under their names may be a whole archive.

    Those that each decoding thread would begin an archive for are read here, one after the other.
    """
    errors, held = dict(block.errors), HeldBytes()
    for place, name in enumerate(block.names):
        if place in errors:
            yield broken_image(name, errors[place])
        elif not follows_others(name) or not held.has_room(1):
            yield named_image(name)
        else:
            try:
                data = in_turn.submit(read_image, name).result()
            except ImageError as error:
                yield broken_image(name, str(error))
            else:
                yield held.image(name, data, partial(read_image, name))
                del data


def _until_stopped(blocks: BlockFolder, images: Iterable[SourceImage]) -> Iterator[SourceImage]:
    looked = time.monotonic()
    for image in images:
        if time.monotonic() - looked >= _SECONDS_BETWEEN_LOOKS:
            if blocks.stopped:
                return
            looked = time.monotonic()
        yield image


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, PcEngineError):
        return Refusal(str(error), error.exit_code)
    what = f"{type(error).__name__}: {error}"
    return Refusal(f"A worker on {platform.node()} failed ({what}): please report it.", PcEngineError.exit_code)
