from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pc_engine.distributed import block_listing
from pc_engine.distributed.block_listing import BlockListing
from pc_engine.errors import PcEngineError
from pc_engine.runs.block_folder import BlockFolder, make_blocks
from pc_engine.sources import SourceImage
from pc_engine.sources.image import local_image

SECONDS = 120


@pytest.fixture
def blocks(tmp_path: Path) -> BlockFolder:
    return make_blocks(tmp_path, "part", "parquet")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_listing, "_FIRST_BLOCK", 2)
    monkeypatch.setattr(block_listing, "_SECONDS_BETWEEN_LOOKS", 0.01)


class Announced:
    """What a listing announced, for a test that waits for it."""

    def __init__(self) -> None:
        self.blocks, self.complete = 0, False
        self.changed = threading.Condition()

    def __call__(self, blocks: int, complete: bool) -> None:
        with self.changed:
            self.blocks, self.complete = blocks, complete
            self.changed.notify_all()

    def until(self, condition: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), SECONDS)


def numbers(total: int, listed: list[int]) -> Iterator[SourceImage]:
    for k in range(total):
        listed.append(k)
        yield local_image(f"{k}.jpg")


def test_blocks_grow_and_are_listed_no_further_ahead_than_asked(blocks: BlockFolder) -> None:
    announced, listed = Announced(), list[int]()
    sizes = []
    with BlockListing(numbers(100, listed), blocks, announced, workers=2, most=8, ahead=3) as listing:
        done = 0
        while not announced.complete or done < announced.blocks:
            announced.until(lambda now, done=done: now.complete or now.blocks > done)
            assert announced.blocks - done <= 3
            block = blocks.take(done)
            assert block.names == tuple(f"{sum(sizes) + k}.jpg" for k in range(len(block.names)))
            # The next block may be in hand, but no more.
            assert len(listed) <= sum(sizes) + len(block.names) + 4 * 8
            sizes.append(len(block.names))
            assert listing.done(done)
            assert not listing.done(done)
            done += 1
    assert sizes == [2, 2, 4, 4, *[8] * 11]
    assert listing.error is None
    assert list(blocks.path.iterdir()) == []


def test_no_images_are_no_blocks(blocks: BlockFolder) -> None:
    announced = Announced()
    with BlockListing([], blocks, announced, workers=1, most=8, ahead=1):
        announced.until(lambda now: now.complete)
    assert announced.blocks == 0


def test_being_asked_to_stop_is_passed_on_to_the_workers(blocks: BlockFolder) -> None:
    announced, asked = Announced(), threading.Event()
    images = (local_image(f"{k}.jpg") for k in range(10**9))
    with BlockListing(images, blocks, announced, workers=1, most=2, ahead=2, stop=asked.is_set):
        announced.until(lambda now: now.blocks == 2)
        assert not blocks.stopped
        asked.set()
        announced.until(lambda now: now.complete)
        assert blocks.stopped
    assert announced.blocks == 2


def test_being_asked_to_stop_is_passed_on_while_the_next_image_is_waited_for(blocks: BlockFolder) -> None:
    announced, asked, answered = Announced(), threading.Event(), threading.Event()

    def images() -> Iterator[SourceImage]:
        yield from map(local_image, ("a.jpg", "b.jpg"))
        answered.wait(10 * SECONDS)  # as a bucket's listing
        yield from map(local_image, ("c.jpg", "d.jpg"))

    with BlockListing(images(), blocks, announced, workers=1, most=2, ahead=2, stop=asked.is_set):
        announced.until(lambda now: now.blocks == 1)
        assert not announced.complete
        asked.set()
        announced.until(lambda now: now.complete)
        assert blocks.stopped
        answered.set()
    assert announced.blocks == 1


def test_a_listing_that_breaks_off_ends_the_run(blocks: BlockFolder) -> None:
    def images() -> Iterator[SourceImage]:
        yield from map(local_image, ("a.jpg", "b.jpg", "c.jpg"))
        raise PcEngineError("The list cannot be read on.")

    announced = Announced()
    with BlockListing(images(), blocks, announced, workers=1, most=2, ahead=9) as listing:
        announced.until(lambda now: now.complete)
    assert announced.blocks == 1
    assert blocks.stopped
    assert str(listing.error) == "The list cannot be read on."
