"""Blocks of a run that several machines share: a few images each, whose rows become a partition of their own.

    .part-<run>.blocks/          of one run, and gone when it ends
        00000012.json            a block that is not done yet: the names of its images, and what is wrong with some
        00000012.taken           a byte for each time that a worker began with it
        <random>.new             rows of a block on their way to part-r<16 hex digits>.parquet
        stop                     there once the run is asked to end

**No row is doubled.** A block's partition has a name made from the run and the block's number: a block that is done
again, since the worker that had it was lost, replaces its own rows. A worker that was given up for lost may be at work
still, even when its run is over and another one went through the rows to see what is left to do. So that other run
first removes this folder: rows that a worker has not brought under their name by then cannot come there any more, as
they would have to come out of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pc_engine.errors import PcEngineError, system_reason
from pc_engine.files.durable import rename, unpublished, when_closed
from pc_engine.runs.partition_names import Format
from pc_engine.runs.writers import cannot_write, write_partition

_SUFFIX = ".blocks"
_STOP = "stop"
_WAITING, _TAKEN = ".json", ".taken"
# An image that crashes a worker would crash all that come after it.
_MOST_TAKEN = 5
# A worker needs seconds to make another file, and none of them makes many.
_TRIES = 1000
# Of files that a worker has open, which Windows does not remove: ten seconds.
_TRIES_WHILE_OPEN = 100


@dataclass(frozen=True)
class Block:
    """Some images of a run.

    Attributes
    ----------
    number
        Its place among the run's blocks, from 0 on.
    names
        The images.
    errors
        Places in ``names`` of what stands for images that could not be listed, and why.
    counts
        Places of images of which a source says how many objects they show, and how many.
    """

    number: int
    names: tuple[str, ...]
    errors: tuple[tuple[int, str], ...] = ()
    counts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class BlockFolder:
    """The blocks of one run.

    Attributes
    ----------
    run
        The run directory.
    stem
        What the names of its partitions begin with.
    row_format
        ``"parquet"`` or ``"jsonl"``.
    token
        16 hex digits that no other run has.
    """

    run: Path
    stem: str
    row_format: Format
    token: str

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.run / f".{self.stem}-{self.token}{_SUFFIX}"

    def put(self, block: Block) -> None:
        """Store a block for whoever is to do it.

        Raises
        ------
        PcEngineError
            If it cannot be written.
        """
        path = self._path_of(block.number)
        temporary = unpublished(path)
        try:
            # Escaped, so that names that are not UTF-8 come through. Other machines may look at any moment.
            temporary.write_text(json.dumps(asdict(block), ensure_ascii=True), encoding="ascii")
            rename(temporary, path)
        except OSError as error:
            raise cannot_write(path, error) from None

    def take(self, number: int) -> Block:
        """Return a block that is not done yet.

        Raises
        ------
        PcEngineError
            If it is not there, cannot be read, or was taken so often that it must be what its workers die of.
        """
        block, taken = self._read(number), self._path_of(number, _TAKEN)
        try:
            with taken.open("ab") as stream:
                times = stream.tell()
                stream.write(b".")
        except OSError as error:
            raise cannot_write(taken, error) from None
        if times >= _MOST_TAKEN:
            raise PcEngineError(
                f"{times} workers in turn were lost while they processed the images from {block.names[0]} to "
                f"{block.names[-1]}: see whether memory runs out on their machines, or move away the image that "
                "crashes them, then run the same command again."
            )
        return block

    def _read(self, number: int) -> Block:
        path = self._path_of(number)
        try:
            content = json.loads(path.read_text(encoding="ascii"))
            errors, counts = (tuple((place, said) for place, said in content[what]) for what in ("errors", "counts"))
            return Block(content["number"], tuple(content["names"]), errors, counts)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = system_reason(error) if isinstance(error, OSError) else "it is damaged"
            raise PcEngineError(
                f"{path} cannot be read ({reason}): see whether this machine reaches the folder of the run, then run "
                f"the same command again. It goes on behind the rows that are written."
            ) from None

    def drop(self, number: int) -> None:
        """Remove a block that is done."""
        for suffix in (_WAITING, _TAKEN):
            self._path_of(number, suffix).unlink(missing_ok=True)

    def write_rows(self, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Bring the rows of a block under the name of its partition, in place of those it may have already.

        Raises
        ------
        PcEngineError
            If they cannot be written.
        """
        # Two workers may have the same block, where one of them was given up for lost.
        write_partition(self.partition(number), rows, temporary=self.path / f"{secrets.token_hex(8)}.new")

    def partition(self, number: int) -> Path:
        """Return the path of a block's rows."""
        digest = hashlib.blake2b(f"{self.token}-{number}".encode(), digest_size=8).hexdigest()
        return self.run / f"{self.stem}-r{digest}.{self.row_format}"

    def stop(self) -> None:
        """Ask the workers to end."""
        with contextlib.suppress(OSError):  # as on a full disk, which is then what the run ends with
            (self.path / _STOP).touch()

    @property
    def stopped(self) -> bool:
        """Whether the workers are to end: the run was asked to, or is over."""
        return (self.path / _STOP).exists() or not self.path.exists()

    def _path_of(self, number: int, suffix: str = _WAITING) -> Path:
        return self.path / f"{number:08d}{suffix}"


def make_blocks(run: Path, stem: str, row_format: Format) -> BlockFolder:
    """Return a folder for the blocks of a run that is about to begin; raise OSError if it cannot be made."""
    folder = BlockFolder(run, stem, row_format, secrets.token_hex(8))
    folder.path.mkdir()
    return folder


def remove_blocks(run: Path, stem: str) -> None:
    """Remove what earlier runs left of their blocks: none of their workers can bring rows under a name afterwards.

    Raises
    ------
    OSError
        If that cannot be done.
    """
    name = re.compile(rf"\.{re.escape(stem)}-[0-9a-f]{{16}}{re.escape(_SUFFIX)}")
    for folder in [path for path in run.glob(f".*{_SUFFIX}") if name.fullmatch(path.name)]:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                # A worker that outlives its run ends with the images that it has in work.
                when_closed(partial(path.unlink, missing_ok=True), _TRIES_WHILE_OPEN)
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # A worker may have begun another file meanwhile.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    raise OSError(errno.EBUSY, f"workers of an earlier run are still working in {folder.name}")
