"""Reading and decoding ahead of the network: from images of a source to entries of a run, in order, on many threads."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pc_engine.decoding.decode import Decode, DecodedImage, ImageSize, decode_bytes
from pc_engine.decoding.plain_jpeg import PlainJpeg
from pc_engine.errors import TOO_LARGE_FOR_MEMORY, ImageError, PcEngineError, first_line, system_reason
from pc_engine.sources import SourceImage, as_source_image
from pc_engine.stage_clock import StageClock

# Files that one thread reads before it hands them over, where they are decoded later.
_READ_AT_ONCE = 16
# Threads that read at a time then, until more turn out to be faster. At each system call another thread takes Python's
# lock, so with many of them those that decode and compute hardly get it back. Measured on 2 cores, files in the page
# cache, with a decoder that lets it go 40 times a batch: 21,700 images a second with 1 thread, 18,700 with 2, 15,600
# with 4 and 12,200 with 16. From a disk that takes 2 ms to answer, 16 read 6,000 files a second and 1 reads under 500.
_READERS_AT_FIRST = 1
# Seconds that a run waits for files, all in all, before twice as many threads try to be faster, and before they are
# judged; and how much faster they have to be to stay.
_PATIENCE = 0.05
_WORTH = 1.5
# Each time that they are not, they try again after twice as long, but no later than this: what comes next may lie on
# another disk, or be for the cores to decode.
_LONGEST_PAUSE = 2.0


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
    known_count
        How many objects its source says that it shows; None where it does not.
    """

    name: str
    image: DecodedImage | ImageSize | None
    error: str | None
    data: PlainJpeg | None = None
    known_count: int | None = None


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
    yielded are stretches of one or several entries. The time goes to the stage "decode" of ``clock``, with ``later`` to
    "read".
    """
    waiting: deque[Future[list[Entry]]] = deque()
    remaining = map(as_source_image, images)
    stretch = 1 if later is None else max(min(_READ_AT_ONCE, ahead // workers), 1)

    def process(image: SourceImage) -> Entry:
        try:
            data = _read(image)
            if later is not None and (file := later(data)) is not None:
                return Entry(image.name, None, None, file, image.count)
            return Entry(image.name, decode(data, *size), None, None, image.count)
        except ImageError as error:
            return Entry(image.name, None, str(error))
        # What reads an image says itself what is wrong; where it did not, that must not end the run either.
        except OSError as error:
            return Entry(image.name, None, f"It cannot be read: {system_reason(error)}.")
        except MemoryError:
            return Entry(image.name, None, TOO_LARGE_FOR_MEMORY)

    spent = functools.partial(clock.measure, "decode" if later is None else "read")
    with closing(_Readers(process, spent, workers if later is None else _READERS_AT_FIRST, workers)) as readers:
        while True:
            while (len(waiting) + 1) * stretch <= ahead and (taken := list(islice(remaining, stretch))):
                waiting.append(readers.add(taken))
            if not waiting:
                return
            yield readers.wait_for(waiting.popleft())


def _read(image: SourceImage) -> bytes:
    """Return the bytes of a file; what else goes wrong where somebody's own code reads it costs that image only."""
    try:
        data: Any = image.read()
    except (ImageError, OSError, MemoryError):
        raise
    except PcEngineError as error:
        raise ImageError(str(error)) from None
    except Exception as error:
        raise ImageError(f"Its read failed ({type(error).__name__}: {first_line(error)}).") from None
    if isinstance(data, bytes):
        return data
    try:
        return bytes(memoryview(data))  # of an array, which is neither true nor false
    except TypeError:
        raise ImageError(f"Its read returns {type(data).__name__}, expected the bytes of a file.") from None


class _Readers:
    """Threads that work on stretches of images in the order in which these are added.

    Where the run waits for them, twice as many work for a while, and go on if they are faster: they are on a disk that
    answers slowly, and are not where they only wait for each other.

    Parameters
    ----------
    work
        Makes the entry of an image.
    spent
        Makes what notes the time that it takes.
    at_first, most
        How many work at a time, and how many may.
    """

    def __init__(
        self,
        work: Callable[[SourceImage], Entry],
        spent: Callable[[], AbstractContextManager[None]],
        at_first: int,
        most: int,
    ) -> None:
        self._work, self._spent = work, spent
        self._at_once, self._most = min(at_first, most), most
        self._adapts = self._at_once < most
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._added: deque[tuple[Future[list[Entry]], list[SourceImage]]] = deque()
        self._working = 0
        # Since their number was changed: images that were made and the seconds in which any thread worked, with when
        # they began last; and how long the run waited, which it may do for so long.
        self._images, self._busy, self._began = 0, 0.0, 0.0
        self._waited, self._patience = 0.0, _PATIENCE
        # How many there were before they were doubled, and their images a second; and how long to be content again.
        self._fewer, self._before, self._pause = self._at_once, 0.0, _PATIENCE

    def add(self, stretch: list[SourceImage]) -> Future[list[Entry]]:
        """Let a thread work on a stretch when those before it are taken."""
        future: Future[list[Entry]] = Future()
        with self._lock:
            self._added.append((future, stretch))
            self._start(1)
        return future

    def wait_for(self, future: Future[list[Entry]]) -> list[Entry]:
        """Return what was made of a stretch."""
        if self._adapts:
            start = time.perf_counter()
            while not wait([future], max(self._patience - self._waited, 0)).done:
                with self._lock:
                    self._adapt()
                start = time.perf_counter()
            self._waited += time.perf_counter() - start
        return future.result()

    def close(self) -> None:
        """End the threads, each when it is done with its stretch."""
        with self._lock:
            self._added.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _adapt(self) -> None:
        """Let twice as many threads work, or as few as before where that was hardly faster; the lock is held."""
        now = time.perf_counter()
        rate = self._images / (self._busy + (now - self._began if self._working else 0.0))
        if rate < _WORTH * self._before:
            self._at_once, self._before = self._fewer, 0.0
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._patience = self._pause
        elif self._at_once < self._most:
            if self._before:
                self._pause = _PATIENCE
            self._fewer, self._before = self._at_once, rate
            self._at_once, self._patience = min(2 * self._at_once, self._most), _PATIENCE
            self._start(len(self._added))
        else:
            self._before = 0.0
        self._images, self._busy, self._began, self._waited = 0, 0.0, now, 0.0

    def _start(self, stretches: int) -> None:
        """Let threads work on so many stretches more, as far as they may; the lock is held."""
        if not self._working:
            self._began = time.perf_counter()
        for _ in range(min(stretches, self._at_once - self._working)):
            self._working += 1
            self._pool.submit(self._take_turns)

    def _take_turns(self) -> None:
        while True:
            with self._lock:
                if not self._added or self._working > self._at_once:
                    self._working -= 1
                    if not self._working:
                        self._busy += time.perf_counter() - self._began
                    return
                future, stretch = self._added.popleft()
            try:
                future.set_result(self._entries(stretch))
            except BaseException as error:
                future.set_exception(error)  # raised where the entries are waited for
            del future, stretch  # else an error that is held would hold them

    def _entries(self, stretch: list[SourceImage]) -> list[Entry]:
        entries = []
        with self._spent():
            for image in stretch:
                entries.append(self._work(image))
                # For a rate: one that is lost to another thread's is no matter.
                self._images += 1
        return entries
