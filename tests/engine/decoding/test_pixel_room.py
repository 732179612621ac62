from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pc_engine.decoding.pixel_room import BYTES_PER_PIXEL, FREE, PixelRoom, room_for
from pc_engine.hardware.machine import usable_memory


def test_what_is_held_at_a_time_never_exceeds_the_room_and_everybody_gets_a_turn() -> None:
    room, lock = PixelRoom(1000), threading.Lock()
    held: dict[int, int] = {}
    most = 0

    def take(number: int, pixels: int) -> None:
        nonlocal most
        with room.taken(pixels):
            with lock:
                held[number] = min(pixels, 1000)
                most = max(most, sum(held.values()))
            threading.Event().wait(0.0005)  # others run meanwhile
            with lock:
                del held[number]

    rng = random.Random(0)
    sizes = [rng.choice((20, 300, 600, 1000, 5000)) for _ in range(200)]
    with ThreadPoolExecutor(16) as pool:
        done = [pool.submit(take, number, pixels) for number, pixels in enumerate(sizes)]
        for future in done:
            future.result(timeout=60)
    assert 1000 >= most > 600


def test_a_small_picture_passes_a_large_one_that_waits() -> None:
    room = PixelRoom(64 * FREE)

    def take(pixels: int) -> threading.Thread:
        def enter() -> None:
            with room.taken(pixels):
                pass

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        return thread

    with room.taken(64 * FREE):
        large, small = take(64 * FREE), take(64)
        small.join(60)
        assert large.is_alive()
        assert not small.is_alive()
    large.join(60)
    assert not large.is_alive()


def test_room_is_given_back_after_an_error() -> None:
    room = PixelRoom(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"), room.taken(10):
            raise ValueError("damaged")


def test_the_room_is_that_of_one_picture_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_memory() > 1 << 28
    monkeypatch.setattr("pc_engine.decoding.pixel_room.usable_memory", lambda: 1 << 20)
    assert room_for(10**6)._pixels == 10**6
    monkeypatch.setattr("pc_engine.decoding.pixel_room.usable_memory", lambda: 4 * BYTES_PER_PIXEL * 10**7)
    assert room_for(10**6)._pixels == 10**7
