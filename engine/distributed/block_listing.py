"""Listing the images of a run for workers elsewhere: as blocks in files, a few ahead of who does them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Self

from pc_engine.runs.block_folder import Block, BlockFolder
from pc_engine.sources import SourceImage

# The first blocks are small, so that a few images occupy all workers; they double until they are worth a partition.
_FIRST_BLOCK = 100
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 5.0


class BlockListing:
    """Lists images on a thread of its own while it is entered, and stores them as blocks.

    Parameters
    ----------
    images
        The images, by their names.
    blocks
        Where the blocks go.
    announce
        Called with the number of blocks so far, and whether these are all.
    workers
        How many will do them.
    most
        Most images in a block.
    ahead
        Most blocks that are listed and not done: memory and files stay few, however many images there are.
    stop
        Whether the run is asked to end; `BlockFolder.stop` then tells the workers.

    Attributes
    ----------
    error
        What ended the listing before its time; None if nothing did.
    """

    def __init__(
        self,
        images: Iterable[SourceImage],
        blocks: BlockFolder,
        announce: Callable[[int, bool], object],
        *,
        workers: int,
        most: int,
        ahead: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.error: Exception | None = None
        self._images, self._blocks = iter(images), blocks
        self._announce, self._stop = announce, stop
        self._workers, self._most = workers, most
        self._open: set[int] = set()
        self._listed = 0
        self._room = threading.Semaphore(ahead)
        self._over = threading.Event()
        self._told_all, self._telling = False, threading.Lock()
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)
        self._watch = threading.Thread(target=self._watch_for_the_end, name="listing's watch", daemon=True)

    def done(self, number: int) -> bool:
        """Note that a block is done; return False if that was known."""
        if number not in self._open:
            return False
        self._open.remove(number)
        self._blocks.drop(number)
        self._room.release()
        return True

    def give_up(self) -> None:
        """Ask the workers to end, and list no more: there are no other blocks, though the next image may be waited for.

        A list that stays silent, or a bucket that does not answer, would hold up what is to be said.
        """
        self._blocks.stop()
        self._tell(complete=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        # Not for ever, as it may wait for an image that never comes; it does not outlast the program.
        self._thread.join(_SECONDS_TO_END)

    def _run(self) -> None:
        try:
            for block in self._cut():
                if not self._wait_for_room():
                    break
                self._blocks.put(block)
                self._open.add(block.number)
                self._listed = block.number + 1
                self._tell()
        except Exception as error:  # for the thread that reads the answers to raise
            self.error = error
            self._blocks.stop()
        self._tell(complete=True)

    def _watch_for_the_end(self) -> None:
        """See to it that a run which is asked to end does so, whatever the next image is waited for."""
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            if self._ended():
                self._tell(complete=True)
                return

    def _tell(self, *, complete: bool = False) -> None:
        with self._telling:
            if not self._told_all:
                self._announce(self._listed, complete)
                self._told_all = complete

    def _cut(self) -> Iterator[Block]:
        for number in count():
            size = min(self._most, _FIRST_BLOCK << min(number // self._workers, 20))
            names: list[str] = []
            errors: list[tuple[int, str]] = []
            counts: list[tuple[int, int]] = []
            for image in islice(self._images, size):  # of which none is kept, as some hold their bytes
                if image.error is not None:
                    errors.append((len(names), image.error))
                if image.count is not None:
                    counts.append((len(names), image.count))
                names.append(image.name)
            if not names:
                return
            yield Block(number, tuple(names), tuple(errors), tuple(counts))

    def _wait_for_room(self) -> bool:
        """Return whether there is room for another block; False if none is wanted any more."""
        while not self._room.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
            if self._ended():
                return False
        return not self._ended()

    def _ended(self) -> bool:
        """Whether the run is over, or asked to end; of the latter, tell the workers."""
        if self._stop():
            self._blocks.stop()
        return self._over.is_set() or self._blocks.stopped
