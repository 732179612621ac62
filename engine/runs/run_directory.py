"""A run directory: partitions of rows, what they were made with, and which images are still to be done.

    part-00000.parquet ...   the rows, each partition whole or not there; part-r<digits>.parquet where workers wrote it
    run.json                 settings, state and summary; of a shard run-2-of-16.json
    overlays/                pictures, where they were asked for
    corrections.jsonl        what people corrected since, if anybody did

A run that ended early, however it ended, goes on where it stopped: what has a row is not done again, and what was in
the one partition that was not whole is. Which images have rows is read off the partitions alone, so that nothing else
has to be right. A directory takes rows of one kind only: of one model, mode, backend and precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pc_engine.errors import PcEngineError, UsageError
from pc_engine.files.durable import UNPUBLISHED, unpublished
from pc_engine.files.out_folder import folder_error
from pc_engine.result import Result
from pc_engine.runs.block_folder import BlockFolder, make_blocks, remove_blocks
from pc_engine.runs.claim import Claim
from pc_engine.runs.done_names import DoneNames
from pc_engine.runs.drawn_pictures import remove_pictures, undrawn_picture
from pc_engine.runs.partition_names import FORMATS, STEM, Format, find_format, parse_partition, partitions_of
from pc_engine.runs.run_file import RunFile
from pc_engine.runs.run_settings import check_settings
from pc_engine.runs.run_sources import FOLDERS, lost_folders, with_earlier_folders
from pc_engine.runs.run_state import State, Tally, states
from pc_engine.runs.shard_check import check_shards
from pc_engine.runs.writers import PartitionWriter, cannot_write, rows_of, write_partition
from pc_engine.sources import SourceImage
from pc_engine.sources.run_folders import OVERLAYS, is_state_file, state_files
from pc_engine.sources.sharding import Shard
from pc_engine.sources.stored_names import stored_name

CORRECTIONS = "corrections.jsonl"
# Of run.json; a directory of another one is not continued.
_FORMAT = 1
# Of run.json: a block of a worker is on the disk, and the rows that wait for their partition are written nowhere yet.
_SECONDS_BETWEEN_STATES, _SECONDS_BETWEEN_ROWS = 1.0, 10.0


class RunDirectory:
    """The directory of a run that is about to write into it; for one process at a time, which holds its lock.

    Use it as a context manager: leaving it brings the rows so far under their partition's name.

    Parameters
    ----------
    directory
        The run directory; created if need be.
    row_format
        ``"parquet"`` or ``"jsonl"``; None for the one that it has rows in already, else parquet.
    fresh
        Remove an earlier run's rows; of a shard, that shard's.
    retry_failed
        Remove the rows of images that could not be done, so that these are tried again.
    shard
        Which part of the images this process does.

    Attributes
    ----------
    file
        Its ``run.json``; whoever comes to know the ``total`` sets it there.
    tally
        The rows in it, and those written since.
    before
        How many of them were there at the start.
    earlier
        What `begin` was given by an earlier run; None if there was none.
    lost
        From `begin` on: folders of photos that have rows, and that are not there any more, where another is new.
    pictures_removed
        From `begin` on: how many pictures of the run that is replaced were removed, as they show what it found.

    Raises
    ------
    UsageError
        If the directory cannot be written, is in use, or holds what does not go together with this run.
    """

    def __init__(
        self,
        directory: Path,
        row_format: str | None = None,
        *,
        fresh: bool = False,
        retry_failed: bool = False,
        shard: Shard | None = None,
    ) -> None:
        chosen = None if row_format is None else find_format(row_format)
        self.directory = directory
        self._shard, self._fresh, self._retry_failed = shard, fresh, retry_failed
        self._stem = STEM if shard is None else f"{STEM}-{shard}"
        self._has_begun = False
        try:
            self._claim = Claim(
                directory, shard, self._check_contents
            )  # which refuses most before there is a lock file
            try:
                self._open(chosen)
            except BaseException:
                self._claim.release(in_vain=True)
                raise
        except FileExistsError:
            raise UsageError(f"{directory} is a file, and rows go into a folder: choose another.") from None
        except OSError as error:
            raise folder_error(directory, error) from None

    def _open(self, row_format: Format | None) -> None:
        check_shards(self.directory, self._shard)  # again: of two that begin at once each has a lock by now
        for path in self.directory.glob(unpublished(Path(f"{STEM}-*")).name):
            if _stem_of(path.name.removeprefix(".").removesuffix(UNPUBLISHED)) == self._stem:
                path.unlink()
        # Before the rows are looked at: what was not under its name by then does not come there any more.
        remove_blocks(self.directory, self._stem)
        # What is to be replaced stays until the new run is sure to begin.
        partitions = [] if self._fresh else self._own_partitions()
        kept = {path.suffix.removeprefix(".") for path in partitions}
        if row_format is not None and kept - {row_format}:
            raise UsageError(
                f"{self.directory} holds rows as {kept.pop()}, not {row_format}: omit --format, or replace them with "
                "--fresh."
            )
        self._format: Format = row_format or (find_format(min(kept)) if kept else FORMATS[0])
        if self._format == "parquet" and stored_name(str(self.directory)) != str(self.directory):
            raise UsageError("Parquet files need a folder whose name is UTF-8: choose another, or add --format jsonl.")
        self.file = RunFile(self.directory, self._shard, fresh=self._fresh)
        self.earlier: Mapping[str, Any] | None = self.file.before.get("settings")
        # All shards of an array may be replaced at once: those that were not yet say nothing of how it is to be.
        if self.earlier is None and self._shard is not None and not self._fresh:
            self.earlier = next((state["settings"] for state in states(self.directory) if "settings" in state), None)
        self.tally = Tally()
        self._done = DoneNames(self._names_in(partitions))
        self.before = self.tally.n
        self.lost: list[str] = []
        self.pictures_removed = 0
        named = [found for path in partitions if (found := parse_partition(path.name))]
        self._writer = PartitionWriter(
            self.directory,
            self._format,
            stem=self._stem,
            first=max((name.number for name in named if name.number is not None), default=-1) + 1,
            published=self._after_partition,
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UsageError, before anything slow, if the directory's rows were made otherwise in any of these."""
        if self.earlier is not None:
            check_settings(self.earlier, settings, self.directory)

    def begin(self, settings: Mapping[str, Any], about: Mapping[str, Any], sources: Iterable[str] = ()) -> None:
        """Say what the rows are made with, before the first one.

        Parameters
        ----------
        settings
            What rows of one directory must have in common; JSON-ready.
        about
            What else `run.json` is to hold about the run; JSON-ready.
        sources
            What images are listed from.

        Raises
        ------
        UsageError
            If the directory's rows were made with other settings, or are of the same photos by other names.
        PcEngineError
            If it cannot be written.
        """
        made_with = {**settings, "format": _FORMAT}
        if self.earlier is not None:
            check_settings(self.earlier, made_with, self.directory)
        elif self.before:
            raise UsageError(
                f"{self.directory} holds rows but no {self.file.path.name} that says how they were made: choose "
                f"another folder, or replace them with --fresh."
            )
        every = [] if self._fresh else states(self.directory)
        folders = with_earlier_folders(self.file.before, every, sources, self.directory)
        self.lost = lost_folders(every, sources)
        self._remove_what_is_replaced()
        self._has_begun = True
        self.file.begin(made_with, {**about, FOLDERS: folders}, self.tally)

    def remaining(self, images: Iterable[SourceImage]) -> Iterator[SourceImage]:
        """Yield those images that are this run's to do and have no row yet."""
        for image in images:
            if self.holds(image) and not self._done.take(stored_name(image.name)):
                yield image

    def holds(self, image: SourceImage) -> bool:
        """Whether an image is this run's to do: all are, but for shards."""
        return self._shard is None or self._shard.holds(image.name)

    def write(self, result: Result) -> None:
        """Add one row.

        Raises
        ------
        PcEngineError
            If it cannot be written, as on a disk that is full.
        """
        self.tally.add(ok=result.ok, label=result.count_label)
        self.file.waiting += 1
        self._writer.write(result)
        self.file.save_if_older(_SECONDS_BETWEEN_ROWS, self.tally)

    def share(self) -> BlockFolder:
        """Return a folder for blocks of images, through which other processes bring rows into this run; see `add`.

        Raises
        ------
        PcEngineError
            If it cannot be made.
        """
        try:
            return make_blocks(self.directory.absolute(), self._stem, self._format)
        except OSError as error:
            raise cannot_write(self.directory, error) from None

    def add(self, tally: Tally) -> None:
        """Count rows that another process brought into the directory.

        Raises
        ------
        PcEngineError
            If ``run.json`` cannot be written.
        """
        self.tally.update(tally)
        # Many workers finish many blocks, and nobody looks more often than this.
        self.file.save_if_older(_SECONDS_BETWEEN_STATES, self.tally)

    def close(self, state: State, summary: Mapping[str, Any]) -> None:
        """Bring all rows under their partition's name, and sum the run up in ``run.json``.

        Raises
        ------
        PcEngineError
            If they cannot be written.
        """
        self._writer.flush()
        if state == "finished" and self.file.total is None:
            self.file.total = self.tally.n  # the run was through before the listing that counts ahead
        self._remove_blocks()
        self.file.end(state, summary, self.tally)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._writer.flush()
            else:
                # What ended the run is what the user is to read, not that the disk is still full.
                with contextlib.suppress(PcEngineError):
                    self._writer.flush()
            with contextlib.suppress(PcEngineError):
                self._remove_blocks()
        finally:
            self._claim.release(in_vain=not self._has_begun)  # as of a run whose model does not exist

    def _remove_blocks(self) -> None:
        try:
            remove_blocks(self.directory, self._stem)
        except OSError as error:
            raise cannot_write(self.directory, error) from None

    def _after_partition(self, rows: int) -> None:
        self.file.waiting -= rows
        self.file.save("running", self.tally)

    def _check_contents(self) -> None:
        """Refuse a directory with files that would be read as rows, or a run that is shared out another way."""
        rows = {path for form in FORMATS for path in self.directory.glob(f"*.{form}")} - {self.directory / CORRECTIONS}
        # By their names, as other shards may publish meanwhile.
        foreign = sorted(path.name for path in rows if parse_partition(path.name) is None)
        if foreign:
            raise UsageError(
                f"{self.directory} holds {foreign[0]}, which no run wrote and which would be read as rows: "
                f"choose another folder."
            )
        # Where no run has been, what lies there are photos, which would be passed over as if they had been drawn.
        if not state_files(self.directory) and (picture := undrawn_picture(self.directory)):
            raise UsageError(
                f"{self.directory} holds {OVERLAYS}/{picture}, which no run drew, in the folder that a run draws its "
                f"pictures into: choose another folder."
            )
        check_shards(self.directory, self._shard)

    def _own_partitions(self) -> list[Path]:
        return [path for path in partitions_of(self.directory) if _stem_of(path.name) == self._stem]

    def _remove_what_is_replaced(self) -> None:
        """Remove the rows that are to be made anew; what people corrected stays."""
        try:
            if self._fresh:
                self._clear()
            elif self._retry_failed:
                for path in self._own_partitions():
                    _without_failed(path)
        except OSError as error:
            raise cannot_write(self.directory, error) from None

    def _clear(self) -> None:
        own = [path for path in (*self._own_partitions(), self.file.path) if path.is_file()]
        # First, as without these no run has been here, and the pictures would stay.
        if own and self._shard is None:
            self.pictures_removed = remove_pictures(self.directory)
        for path in own:
            path.unlink()

    def _names_in(self, partitions: Iterable[Path]) -> Iterator[str]:
        for path in partitions:
            for row in rows_of(path, ("path", "status", "count_label")):
                ok = row["status"] == "ok"
                if ok or not self._retry_failed:
                    self.tally.add(ok=ok, label=row["count_label"])
                    yield row["path"]


def is_own_file(name: str) -> bool:
    """Whether the file at a path is called as what a run writes."""
    path = Path(name)
    return parse_partition(path.name) is not None or is_state_file(path.name) or path.name == CORRECTIONS


def _stem_of(name: str) -> str | None:
    found = parse_partition(name)
    return None if found is None else found.stem


def _without_failed(path: Path) -> None:
    """Rewrite a partition without the rows of images that failed, if it has any."""
    if any(row["status"] != "ok" for row in rows_of(path, ("status",))):
        write_partition(path, (row for row in rows_of(path) if row["status"] == "ok"))
