from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pc_engine.decoding import read_ahead
from pc_engine.decoding.decode import DecodedImage
from pc_engine.decoding.plain_jpeg import PlainJpeg
from pc_engine.decoding.read_ahead import decode_ahead
from pc_engine.errors import UsageError
from pc_engine.sources import SourceImage
from pc_engine.stage_clock import StageClock

BLACK = np.zeros((8, 8, 3), np.uint8)
LATER = partial(PlainJpeg, pixels=1)
# Seconds, for what is sure to happen.
PATIENCE = 120


def test_decoding_runs_ahead_of_a_slow_consumer_but_not_further_than_asked(photos: list[Path]) -> None:
    clock, third = StageClock(), threading.Event()
    taken: list[Path] = []

    def source() -> Iterator[Path]:
        for path in photos:
            taken.append(path)
            yield path

    def decode(data: bytes, *_: int) -> DecodedImage:
        if data == photos[2].read_bytes():
            third.set()
        return DecodedImage(BLACK, 8, 8)

    entries = decode_ahead(source(), (8, 8), 2, ahead=3, clock=clock, decode=decode)
    (first,) = next(entries)
    assert first.name == str(photos[0])
    assert third.wait(PATIENCE)  # while nobody asks for another one
    assert taken == photos[:3]
    assert [entry.name for (entry,) in entries] == [str(path) for path in photos[1:]]
    assert clock.seconds["decode"] > 0


def test_files_that_are_decoded_later_are_read_in_order_and_not_further_ahead_than_asked(photos: list[Path]) -> None:
    taken: list[Path] = []

    def source() -> Iterator[Path]:
        for path in photos * 20:
            taken.append(path)
            yield path

    clock = StageClock()
    stretches = decode_ahead(source(), (64, 64), 3, ahead=40, clock=clock, later=LATER)
    first = next(stretches)
    assert [entry.name for entry in first] == [str(path) for path in (photos * 20)[: len(first)]]
    assert 1 < len(first) <= read_ahead._READ_AT_ONCE
    assert all(entry.image is None and entry.error is None for entry in first)
    assert [entry.data for entry in first] == [(path.read_bytes(), 1) for path in (photos * 20)[: len(first)]]
    assert len(taken) <= len(first) + 40
    rest = chain.from_iterable(stretches)
    assert [entry.name for entry in (*first, *rest)] == [str(path) for path in photos * 20]
    assert set(clock.seconds) == {"read"}


class Slow:
    """A disk that takes a while to answer, and how many threads waited for it at once; ``spent`` is what it answered.

    Its ``images`` come until it was asked for so many after ``enough``.
    """

    def __init__(self, seconds: float, *, one_at_a_time: bool = False) -> None:
        self.seconds = seconds
        self.waiting = self.most = 0
        self.spent = 0.0
        self.names: list[str] = []
        self._lock = threading.Lock()
        self._answers = threading.Lock() if one_at_a_time else contextlib.nullcontext()

    def images(self, n: int, enough: Callable[[], bool] = lambda: True) -> Iterator[SourceImage]:
        end = time.monotonic() + PATIENCE
        for k in itertools.count():
            n -= enough() or time.monotonic() > end
            if n < 0:
                return
            self.names.append(str(k))
            yield self.image(str(k))

    def image(self, name: str) -> SourceImage:
        return SourceImage(name, self._read)

    def _read(self) -> bytes:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        with self._answers:
            time.sleep(self.seconds)
        with self._lock:
            self.spent += self.seconds
            self.waiting -= 1
        return b""


@pytest.mark.parametrize(("patience", "most"), [(1e6, read_ahead._READERS_AT_FIRST), (0.1, 12)])
def test_few_threads_read_files_that_are_decoded_later_until_the_run_has_waited_too_long(
    patience: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_PATIENCE", patience)
    disk = Slow(0.01)
    # Where others take the cores as more threads are measured, these go again, and try later.
    images = disk.images(80, lambda: disk.most >= most)
    stretches = decode_ahead(images, (8, 8), 12, ahead=48, clock=StageClock(), later=LATER)
    assert [entry.name for entry in chain.from_iterable(stretches)] == disk.names
    assert disk.most == most


def test_more_threads_that_are_no_faster_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of the disk, which stands still while others have the cores."""
    disk = Slow(0.002, one_at_a_time=True)

    def wait(futures: Sequence[Future[Any]], seconds: float) -> Any:
        end = disk.spent + seconds
        while not futures[0].done() and disk.spent < end:
            time.sleep(1e-4)
        return SimpleNamespace(done=futures[0].done())

    monkeypatch.setattr(read_ahead, "_PATIENCE", 0.05)
    monkeypatch.setattr(read_ahead, "time", SimpleNamespace(perf_counter=lambda: disk.spent))
    monkeypatch.setattr(read_ahead, "wait", wait)
    images = disk.images(300, lambda: disk.most >= 2)
    stretches = decode_ahead(images, (8, 8), 8, ahead=64, clock=StageClock(), later=LATER)
    assert [entry.name for entry in chain.from_iterable(stretches)] == disk.names
    assert disk.most == 2


def test_short_waits_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_PATIENCE", 0.2)
    disk = Slow(0.02)
    stretches = decode_ahead(disk.images(80), (8, 8), 2, ahead=2, clock=StageClock(), later=LATER)
    assert len(list(stretches)) == 80
    assert disk.most == 2


def test_all_threads_decode_from_the_start_where_nothing_is_decoded_later() -> None:
    """Each waits for all others, however late the machine starts them."""
    meeting = threading.Barrier(12)

    def read() -> bytes:
        meeting.wait(PATIENCE)
        return b""

    images = (SourceImage(str(k), read) for k in range(12))
    stretches = decode_ahead(images, (8, 8), 12, ahead=48, clock=StageClock())
    assert all(entry.error for entry in chain.from_iterable(stretches))
    assert not meeting.broken


def test_nothing_more_is_read_when_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    class Threads(ThreadPoolExecutor):
        def shutdown(self, *arguments: bool, **options: bool) -> None:
            ended.set()
            super().shutdown(*arguments, **options)

    monkeypatch.setattr(read_ahead, "ThreadPoolExecutor", Threads)
    read: list[int] = []

    def one(k: int) -> bytes:
        if k >= read_ahead._READ_AT_ONCE:
            ended.wait(PATIENCE)
        read.append(k)
        return b""

    images = (SourceImage(str(k), partial(one, k)) for k in range(480))
    stretches = decode_ahead(images, (8, 8), 12, ahead=240, clock=StageClock(), later=LATER)
    first = next(stretches)
    stretches.close()
    assert len(read) <= len(first) * (1 + read_ahead._READERS_AT_FIRST)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_stretches_are_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_READERS_AT_FIRST", 1)
    monkeypatch.setattr(read_ahead, "_PATIENCE", 1e6)
    read: list[int] = []

    def one(k: int) -> bytes:
        read.append(k)
        return b""

    images = (SourceImage(str(k), partial(one, k)) for k in range(480))
    stretches = decode_ahead(images, (8, 8), 12, ahead=240, clock=StageClock(), later=LATER)
    assert len(list(chain.from_iterable(stretches))) == 480
    assert read == sorted(read)


def test_what_no_image_is_to_blame_for_is_raised_at_its_turn() -> None:
    def decode(data: bytes, *_: int) -> DecodedImage:
        if data == b"b":
            raise UsageError("The decoder was closed.")
        return DecodedImage(BLACK, 8, 8)

    images = [SourceImage(name, name.encode) for name in "abc"]
    stretches = decode_ahead(images, (8, 8), 2, ahead=3, clock=StageClock(), decode=decode)
    assert [entry.name for entry in next(stretches)] == ["a"]
    with pytest.raises(UsageError, match="was closed"):
        next(stretches)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]
