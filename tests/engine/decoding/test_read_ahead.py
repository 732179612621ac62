from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

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
_ATTEMPTS = 3


def test_decoding_runs_ahead_of_a_slow_consumer_but_not_further_than_asked(photos: list[Path]) -> None:
    clock = StageClock()
    entries = decode_ahead(photos, (8, 8), 2, ahead=3, clock=clock)
    (first,) = next(entries)
    assert first.name == str(photos[0])
    deadline = time.monotonic() + 5
    while threading.active_count() and clock.seconds["decode"] == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
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
    """A disk that takes a while to answer, and how many threads waited for it at once."""

    def __init__(self, seconds: float, *, one_at_a_time: bool = False) -> None:
        self.seconds = seconds
        self.waiting = self.most = 0
        self._lock = threading.Lock()
        self._answers = threading.Lock() if one_at_a_time else contextlib.nullcontext()

    def image(self, name: str) -> SourceImage:
        return SourceImage(name, self._read)

    def _read(self) -> bytes:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        with self._answers:
            time.sleep(self.seconds)
        with self._lock:
            self.waiting -= 1
        return b""


@pytest.mark.parametrize(("patience", "most"), [(60.0, read_ahead._READERS_AT_FIRST), (0.1, 12)])
def test_few_threads_read_files_that_are_decoded_later_until_the_run_has_waited_too_long(
    patience: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_PATIENCE", patience)
    disk = Slow(0.01)
    names = [str(k) for k in range(80 if most < 12 else 480)]
    stretches = decode_ahead(map(disk.image, names), (8, 8), 12, ahead=48, clock=StageClock(), later=LATER)
    assert [entry.name for entry in chain.from_iterable(stretches)] == names
    assert disk.most == most


def test_more_threads_that_are_no_faster_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_PATIENCE", 0.05)
    # Where others took the cores as one thread was measured, and not as two were, these are faster: once, by chance.
    for _ in range(_ATTEMPTS):
        disk = Slow(0.002, one_at_a_time=True)
        stretches = decode_ahead(
            map(disk.image, map(str, range(300))), (8, 8), 8, ahead=64, clock=StageClock(), later=LATER
        )
        assert len(list(chain.from_iterable(stretches))) == 300
        if disk.most == 2:
            break
    assert disk.most == 2


def test_short_waits_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_PATIENCE", 0.1)
    disk = Slow(0.01)
    stretches = decode_ahead(map(disk.image, map(str, range(40))), (8, 8), 2, ahead=2, clock=StageClock(), later=LATER)
    assert len(list(stretches)) == 40
    assert disk.most == 2


def test_all_threads_decode_from_the_start_where_nothing_is_decoded_later() -> None:
    """Each waits for all others, however late the machine starts them."""
    meeting = threading.Barrier(12)

    def read() -> bytes:
        meeting.wait(30)
        return b""

    images = (SourceImage(str(k), read) for k in range(12))
    stretches = decode_ahead(images, (8, 8), 12, ahead=48, clock=StageClock())
    assert all(entry.error for entry in chain.from_iterable(stretches))
    assert not meeting.broken


def test_nothing_more_is_read_when_the_run_ends() -> None:
    ended = threading.Event()
    read: list[int] = []

    def one(k: int) -> bytes:
        if k >= read_ahead._READ_AT_ONCE:
            ended.wait(10)
        read.append(k)
        return b""

    images = (SourceImage(str(k), partial(one, k)) for k in range(480))
    stretches = decode_ahead(images, (8, 8), 12, ahead=240, clock=StageClock(), later=LATER)
    first = next(stretches)
    threading.Timer(0.5, ended.set).start()
    stretches.close()
    assert len(read) <= len(first) * (1 + read_ahead._READERS_AT_FIRST)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_stretches_are_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_READERS_AT_FIRST", 1)
    monkeypatch.setattr(read_ahead, "_PATIENCE", 60.0)
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
