"""Reading and decoding ahead of the network: from images of a source to entries of a run, in order, on many threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pc_engine.decode import DecodedImage, ImageSize, decode_bytes
from pc_engine.decode_device import Decode
from pc_engine.errors import ImageError
from pc_engine.plain_jpeg import PlainJpeg
from pc_engine.sources import SourceImage, as_source_image
from pc_engine.stage_clock import StageClock

# Files that one thread reads before it hands them over, where they are decoded later.
_READ_AT_ONCE = 16
# Threads that read at a time then, until they turn out to be too few. At each system call another thread takes Python's
# lock, so with many of them those that decode and compute hardly get it back. Measured on 2 cores, files in the page
# cache: a thread that lets it go 60 times for 20 us each is done after 6 ms beside 1 thread that reads, or 2, after 41
# beside 4, and after 1,056 beside 16; and 1 alone reads 60,000 files a second.
_READERS_AT_FIRST = 1
# Seconds that a run waits for files, all in all, before twice as many threads read them: what it begins with comes from
# a page cache in about that time. From a disk that takes 2 ms to answer, all of 16 threads read after 0.2 s.
_PATIENCE = 0.05


class Entry(NamedTuple):
    """One image of the source, by the name of its row: decoded, or with the reason why not.

    Attributes
    ----------
    name
        As its source names it.
    image
        What was decoded; the size alone where the pixels lie in those of a batch. None where nothing was, or not yet.
    error
        The sentence that says why not.
    data
        A file that is decoded with its batch.
    """

    name: str
    image: DecodedImage | ImageSize | None
    error: str | None
    data: PlainJpeg | None = None


def count_readable(entries: Sequence[Entry]) -> int:
    """Return how many are to go through the network, as far as is known."""
    return [entry.error for entry in entries].count(None)


def decode_ahead(
    images: Iterable[SourceImage | Path],
    size: tuple[int, int],
    workers: int,
    *,
    ahead: int,
    clock: StageClock,
    later: Callable[[bytes], PlainJpeg | None] | None = None,
    decode: Decode = decode_bytes,
) -> Generator[list[Entry]]:
    """Read and decode images to ``size`` (height, width) on ``workers`` threads, at most ``ahead`` before the consumer.

    libjpeg, Pillow's decoders and its resampling release Python's lock, so threads do use the cores. Files that
    ``later`` takes are read only, several by one thread: handing them over one by one would take longer. So what is
    yielded are stretches of one or several entries.
    """
    waiting: deque[Future[list[Entry]]] = deque()
    remaining = map(as_source_image, images)
    stretch = 1 if later is None else max(min(_READ_AT_ONCE, ahead // workers), 1)
    turns = _Turns(workers if later is None else min(_READERS_AT_FIRST, workers), workers)

    def process(image: SourceImage) -> Entry:
        try:
            data = image.read()
            if later is not None and (file := later(data)) is not None:
                return Entry(image.name, None, None, file)
            return Entry(image.name, decode(data, *size), None)
        except ImageError as error:
            return Entry(image.name, None, str(error))
        # What reads an image says itself what is wrong; where it did not, that must not end the run either.
        except OSError as error:
            return Entry(image.name, None, f"It cannot be read: {error.strerror or error}.")
        except MemoryError:
            return Entry(image.name, None, "It does not fit into memory: scale it down first.")

    def process_all(several: list[SourceImage]) -> list[Entry]:
        with turns.taken() as goes_on, clock.measure("decode"):
            return [process(image) for image in several] if goes_on else []

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        while True:
            while (len(waiting) + 1) * stretch <= ahead and (taken := list(islice(remaining, stretch))):
                waiting.append(pool.submit(process_all, taken))
            if not waiting:
                return
            yield turns.wait_for(waiting.popleft())
    finally:
        turns.end()
        pool.shutdown(wait=True, cancel_futures=True)


class _Turns:
    """Lets so many threads work at a time, of ``most`` that there are; those that wait leave Python's lock alone."""

    def __init__(self, at_once: int, most: int) -> None:
        self._at_once, self._most = at_once, most
        self._free = threading.Semaphore(at_once)
        self._patience = _PATIENCE
        self._ended = False

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Wait for a turn; whether there is anything left to do in it."""
        with self._free if self._at_once < self._most else nullcontext():
            yield not self._ended

    def wait_for(self, work: Future[list[Entry]]) -> list[Entry]:
        """Return what a thread made; each time that patience ends, twice as many of them work at a time."""
        while self._at_once < self._most:
            start = time.perf_counter()
            if wait([work], max(self._patience, 0)).done:
                self._patience -= time.perf_counter() - start
                break
            more = min(self._at_once, self._most - self._at_once)
            self._at_once += more
            self._free.release(more)
            self._patience = _PATIENCE
        return work.result()

    def end(self) -> None:
        """Leave threads that wait nothing to do."""
        self._ended = True


__all__ = ["Entry", "count_readable", "decode_ahead"]
