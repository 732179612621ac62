from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pc_engine import pipeline
from pc_engine.backbone import Backbone, CompileRequest
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.decoding.decode import DecodedImage, ImageSize, decode_bytes
from pc_engine.decoding.decode_device import DecodedBatch
from pc_engine.decoding.plain_jpeg import PlainJpeg
from pc_engine.errors import BackendError, DeviceMemoryError, ImageError, UsageError
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.pipeline import BatchHooks, BatchLimit, TapBatch, map_batches, tap_batches
from pc_engine.sources import SourceImage

TAPS = ("conv_last", "gap", "logits")


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    return replace(network_request(load_model(tiny_directory), TAPS, batch_size=4), threads=1)


@pytest.fixture
def open_tiny(request_: CompileRequest) -> Callable[[int], Backbone]:
    """Return ``open(batch_size)``, which compiles the tiny network."""
    return lambda batch_size: OnnxRuntimeBackend().compile(replace(request_, batch_size=batch_size))


def names(batches: Iterable[TapBatch]) -> list[str]:
    return [entry.name for batch in batches for entry in batch.entries]


def decode_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def brightness(batches: Iterator[TapBatch]) -> list[float | None]:
    """The brightness that the network saw, by entry; None for an entry without taps."""
    seen: list[float | None] = []
    for batch in batches:
        row_of = {position: row for row, position in enumerate(batch.rows)}
        for i in range(len(batch.entries)):
            row = row_of.get(i)
            seen.append(None if row is None or batch.taps is None else float(batch.taps["gap"][row, 3]))
    return seen


def test_batches_hold_the_photos_in_order_with_their_taps(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    batches = list(tap_batches(photos, open_tiny(4), workers=3))
    assert [len(batch.entries) for batch in batches] == [4, 4, 2]
    assert names(batches) == [str(path) for path in photos]
    for batch in batches:
        assert batch.rows == tuple(range(len(batch.entries)))
        assert batch.finite.all()
        assert batch.taps is not None
        assert {name: len(tap) for name, tap in batch.taps.items()} == dict.fromkeys(TAPS, len(batch.entries))
    expected = [(100 + 10 * k) / 255 - 0.3 for k in range(10)]
    np.testing.assert_allclose(np.array(brightness(iter(batches)), float), expected, atol=1e-5)
    image = batches[2].entries[1].image
    assert image is not None
    assert (image.width, image.height) == (29, 30)


def test_order_is_kept_whatever_order_decoding_ends_in(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    def uneven(path: Path) -> bytes:
        time.sleep(0.02 * (int(path.stem) % 3 == 0))
        return path.read_bytes()

    images = [SourceImage(path.name, partial(uneven, path)) for path in photos]
    seen = brightness(tap_batches(images, open_tiny(3), workers=4))
    assert seen == sorted(seen)


def test_bytes_are_read_on_the_decoding_threads_and_an_error_of_reading_is_the_entrys(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    threads: set[str] = set()

    def read(path: Path) -> bytes:
        threads.add(threading.current_thread().name)
        if path == photos[1]:
            raise ImageError("The bucket is empty.")
        return path.read_bytes()

    images = [SourceImage(f"memory://{path.name}", partial(read, path)) for path in photos]
    batches = list(tap_batches([photos[0], *images], open_tiny(4), workers=2))
    assert names(batches) == [str(photos[0]), *(image.name for image in images)]
    assert [entry.error for batch in batches for entry in batch.entries if entry.image is None] == [
        "The bucket is empty."
    ]
    assert all(name.startswith("decode") for name in threads)


def test_unreadable_images_keep_their_place(
    photos: list[Path], tmp_path: Path, open_tiny: Callable[[int], Backbone]
) -> None:
    mixed: list[Path] = []
    for k, path in enumerate(photos):
        broken = tmp_path / f"broken{k}.jpg"
        broken.write_bytes(b"no image")
        mixed += [broken, path] if k % 2 else [path]
    alone = brightness(tap_batches(photos, open_tiny(4), workers=2))
    together = list(tap_batches(mixed, open_tiny(4), workers=2))
    assert names(together) == [str(path) for path in mixed]
    seen = brightness(iter(together))
    assert [value for value in seen if value is not None] == alone
    errors = [entry.error for batch in together for entry in batch.entries]
    assert [error is None for error in errors] == [value is not None for value in seen]
    assert all("not an image" in error for error in errors if error)
    assert [len(batch.rows) for batch in together] == [4, 4, 2]  # batches are as full as they can be


def test_a_long_row_of_unreadable_images_goes_on_in_groups(
    tmp_path: Path, open_tiny: Callable[[int], Backbone]
) -> None:
    gone = [tmp_path / f"{k}.jpg" for k in range(20)]
    batches = list(tap_batches(gone, open_tiny(2), workers=2))
    assert [len(batch.entries) for batch in batches] == [8, 8, 4]
    for batch in batches:
        assert (batch.rows, batch.taps, len(batch.finite)) == ((), None, 0)
        assert all(entry.error and entry.image is None for entry in batch.entries)


def test_no_image_gives_no_batch(open_tiny: Callable[[int], Backbone]) -> None:
    assert list(tap_batches([], open_tiny(2), workers=1)) == []


@pytest.mark.parametrize("workers", [1, 8])
def test_the_source_is_read_a_bounded_number_of_images_ahead(
    photos: list[Path], open_tiny: Callable[[int], Backbone], workers: int
) -> None:
    size, taken = 2, 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            yield photos[taken % len(photos)]
            taken += 1

    batches = tap_batches(endless(), open_tiny(size), workers)
    for n in range(1, 6):
        next(batches)
        assert taken <= n * size + pipeline._BATCHES_AHEAD * size
    batches.close()


def test_closing_early_ends_the_threads(photos: list[Path], open_tiny: Callable[[int], Backbone]) -> None:
    batches = tap_batches(photos * 5, open_tiny(2), workers=3)
    next(batches)
    assert decode_threads()
    batches.close()
    assert decode_threads() == []


def test_threads_end_with_the_last_batch(photos: list[Path], open_tiny: Callable[[int], Backbone]) -> None:
    assert len(list(tap_batches(photos, open_tiny(4), workers=3))) == 3
    assert decode_threads() == []


class _SideBySide:
    """A network that takes two batches at once, and none without images."""

    backend = "side by side"
    parallel = 2
    remarks = ()

    def __init__(self, network: Backbone) -> None:
        self.request = network.request
        self._network = network

    def infer(self, images: np.ndarray, into: object = None) -> dict[str, np.ndarray]:
        assert len(images)
        return self._network.infer(images)

    def close(self) -> None:
        self._network.close()


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (2, [1, 1]), (3, [2, 1]), (4, [2, 2]), (5, [3, 2]), (8, [4, 4]), (9, [4, 3, 2])]
)
def test_the_last_images_are_shared_among_the_batches_that_run_at_once(
    photos: list[Path], open_tiny: Callable[[int], Backbone], n: int, sizes: list[int]
) -> None:
    batches = list(tap_batches(photos[:n], _SideBySide(open_tiny(4)), workers=2))
    assert [len(batch.entries) for batch in batches] == sizes
    expected = [(100 + 10 * k) / 255 - 0.3 for k in range(n)]
    np.testing.assert_allclose(np.array(brightness(iter(batches)), float), expected, atol=1e-5)


def test_unreadable_images_among_the_last_ones_keep_their_place(
    photos: list[Path], tmp_path: Path, open_tiny: Callable[[int], Backbone]
) -> None:
    gone = [tmp_path / f"gone{k}.jpg" for k in range(40)]
    paths = [*gone[:3], *photos[:5], *gone[3:], *photos[5:6]]
    batches = list(tap_batches(paths, _SideBySide(open_tiny(4)), workers=2))
    assert names(batches) == [str(path) for path in paths]
    assert sum(len(batch.rows) for batch in batches) == 6
    assert max(len(batch.entries) for batch in batches) <= 4 * pipeline._UNREADABLE_GROUP
    assert max(len(batch.rows) for batch in batches) <= 4


class _Failing:
    """A network that fails at its second batch."""

    backend = "failing"

    parallel = 1
    remarks = ()

    def __init__(self, network: Backbone) -> None:
        self.request = network.request
        self._network, self._calls = network, 0

    def infer(self, images: np.ndarray, into: object = None) -> dict[str, np.ndarray]:
        self._calls += 1
        if self._calls == 2:
            raise BackendError("The network failed.")
        return self._network.infer(images)

    def close(self) -> None:
        self._network.close()


def test_a_network_that_fails_ends_the_run_and_its_threads(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    batches = tap_batches(photos * 5, _Failing(open_tiny(2)), workers=2)
    next(batches)
    with pytest.raises(BackendError) as caught:
        next(batches)
    assert caught.value.__traceback__ is not None  # it is still held, and the threads have ended all the same
    assert decode_threads() == []


def test_a_source_that_fails_half_way_ends_the_threads(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    def source() -> Iterator[Path]:
        yield from photos[:3]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone") as caught:
        list(tap_batches(source(), open_tiny(2), workers=2))
    assert caught.value.__traceback__ is not None
    assert decode_threads() == []


def test_images_for_which_the_network_returns_nan_are_marked_and_zeroed(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    directory = make_model(tmp_path / "nan", nan_above=0.6)
    request = replace(network_request(load_model(directory), TAPS, batch_size=3), threads=1)
    network = OnnxRuntimeBackend().compile(request)
    paths = [tmp_path / f"{red}.png" for red in (100, 250, 120, 240)]
    for path in paths:
        Image.new("RGB", (8, 8), (int(path.stem), 100, 100)).save(path)
    first, second = tap_batches(paths, network, workers=1)
    np.testing.assert_array_equal(first.finite, [True, False, True])
    np.testing.assert_array_equal(second.finite, [False])
    assert first.taps is not None
    for tap in first.taps.values():
        assert np.isfinite(tap).all()
        assert not tap[1].any()
        assert tap[0].any()
        assert tap[2].any()
    alone = next(tap_batches(paths[2:3], network, workers=1))
    assert alone.taps is not None
    np.testing.assert_array_equal(alone.taps["gap"][0], first.taps["gap"][2])


class _Parallel:
    """A network that takes three batches at once; ``inside`` is entered for each."""

    backend = "parallel"
    parallel = 3
    remarks = ()

    def __init__(self, network: Backbone, inside: Callable[[], AbstractContextManager[object]]) -> None:
        self.request = network.request
        self.most_at_once = 0
        self._network, self._inside = network, inside
        self._running = 0
        self._lock = threading.Lock()

    def infer(self, images: np.ndarray, into: object = None) -> dict[str, np.ndarray]:
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        with self._inside():
            taps = self._network.infer(images)
        with self._lock:
            self._running -= 1
        return taps

    def close(self) -> None:
        self._network.close()


def test_batches_run_side_by_side_and_come_out_in_order(
    photos: list[Path], open_tiny: Callable[[int], Backbone], first_at_once: Any
) -> None:
    network = _Parallel(open_tiny(1), first_at_once(3))
    alone = brightness(tap_batches(photos, open_tiny(1), workers=2))
    assert brightness(tap_batches(photos, network, workers=2)) == alone
    assert network.most_at_once == 3


def test_a_batch_is_finished_on_the_thread_that_ran_it(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    def finish(batch: TapBatch) -> tuple[str, list[str]]:
        return threading.current_thread().name, [entry.name for entry in batch.entries]

    finished = list(map_batches(photos, open_tiny(4), 2, finish))
    assert [name for _, entries in finished for name in entries] == [str(path) for path in photos]
    assert all(thread.startswith("network") for thread, _ in finished)


def test_an_error_while_finishing_ends_the_run_and_its_threads(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    def finish(batch: TapBatch) -> None:
        raise ValueError("no finish")

    with pytest.raises(ValueError, match="no finish"):
        list(map_batches(photos, open_tiny(4), 2, finish))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "network"))]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(5, "Input/output error"), "It cannot be read: Input/output error."),
        (MemoryError(), "It does not fit into memory: scale it down first."),
        (ImageError("It is gone."), "It is gone."),
        (KeyError("k"), "Its read failed (KeyError: 'k')."),
        (RuntimeError(), "Its read failed (RuntimeError: RuntimeError)."),
        (UsageError("It was closed."), "It was closed."),
    ],
)
def test_an_image_whose_reading_fails_in_any_way_has_its_entry(
    photos: list[Path], open_tiny: Callable[[int], Backbone], error: Exception, sentence: str
) -> None:
    def fail() -> bytes:
        raise error

    images = [photos[0], SourceImage("bad", fail), photos[1]]
    (batch,) = tap_batches(images, open_tiny(4), workers=2)
    assert [entry.error for entry in batch.entries] == [None, sentence, None]


@pytest.mark.parametrize("returned", [None, "text", io.BytesIO()])
def test_an_image_whose_read_returns_no_bytes_has_its_entry(
    photos: list[Path], open_tiny: Callable[[int], Backbone], returned: Any
) -> None:
    images = [SourceImage("bad", lambda: returned), photos[0]]
    (batch,) = tap_batches(images, open_tiny(4), workers=2)
    expected = f"Its read returns {type(returned).__name__}, expected the bytes of a file."
    assert [entry.error for entry in batch.entries] == [expected, None]


def test_bytes_may_lie_in_an_array(photos: list[Path], open_tiny: Callable[[int], Backbone]) -> None:
    arrays: list[Any] = [np.fromfile(photos[0], np.uint8), bytearray(photos[1].read_bytes()), np.zeros(0, np.uint8)]
    images = [SourceImage(str(k), lambda array=array: array) for k, array in enumerate(arrays)]
    entries = [entry for batch in tap_batches(images, open_tiny(4), workers=2) for entry in batch.entries]
    assert [entry.error for entry in entries] == [None, None, "The file is empty (0 bytes)."]


def test_what_decodes_files_can_be_another(photos: list[Path], open_tiny: Callable[[int], Backbone]) -> None:
    def decode(data: bytes, height: int, width: int) -> DecodedImage:
        assert data == photos[0].read_bytes()
        return DecodedImage(np.zeros((height, width, 3), np.uint8), 7, 9)

    (sizes,) = map_batches(
        photos[:1],
        open_tiny(4),
        1,
        lambda batch: [entry.image.width for entry in batch.entries],
        BatchHooks(decode=decode),
    )
    assert sizes == [7]


class LaterDecoder:
    """Takes every file and decodes the batches of several threads at once; ``inside`` is entered for each."""

    def __init__(
        self,
        before: Callable[[int], object] = lambda _: None,
        inside: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.sizes: list[int] = []
        self.at_once = self.most_at_once = 0
        self._before, self._inside, self._lock = before, inside, threading.Lock()

    def takes(self, data: bytes) -> PlainJpeg:
        return PlainJpeg(data, 1)

    def decode(self, files: Sequence[PlainJpeg | DecodedImage], height: int, width: int) -> DecodedBatch:
        with self._lock:
            self.sizes.append(len(files))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            with self._inside():
                self._before(len(files))
                return self._decoded(files, height, width)
        finally:
            with self._lock:
                self.at_once -= 1

    def _decoded(self, files: Sequence[PlainJpeg | DecodedImage], height: int, width: int) -> DecodedBatch:
        pixels, sizes, errors = [], [], []
        for file in files:
            assert isinstance(file, PlainJpeg)
            try:
                image = decode_bytes(file.data, height, width)
            except ImageError as error:
                sizes.append(None)
                errors.append(str(error))
            else:
                pixels.append(image.pixels)
                sizes.append(ImageSize(image.width, image.height))
                errors.append(None)
        stacked = np.stack(pixels) if pixels else np.empty((0, height, width, 3), np.uint8)
        return DecodedBatch(stacked, tuple(sizes), tuple(errors), len(pixels))


def seen_and_sizes(batch: TapBatch) -> list[tuple[str, str | None, float | None, object]]:
    values = iter(batch.taps["gap"][:, 3].tolist() if batch.taps is not None else ())
    return [
        (entry.name, entry.error, None, None)
        if entry.image is None
        else (entry.name, entry.error, next(values), (entry.image.width, entry.image.height))
        for entry in batch.entries
    ]


def test_batches_that_are_decoded_side_by_side_have_the_rows_of_the_cores_in_order(
    photos: list[Path], tmp_path: Path, open_tiny: Callable[[int], Backbone], first_at_once: Any
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    paths = [*photos[:5], broken, tmp_path / "gone.jpg", *photos[5:], *[broken] * 9, *photos * 3]
    decoder = LaterDecoder(inside=first_at_once(2))
    expected = list(chain.from_iterable(map_batches(paths, open_tiny(3), 2, seen_and_sizes)))
    network = _SideBySide(open_tiny(3))
    found = list(chain.from_iterable(map_batches(paths, network, 2, seen_and_sizes, BatchHooks(decoder=decoder))))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[3] for row in found] == [row[3] for row in expected]
    np.testing.assert_allclose(
        np.array([row[2] for row in found], float), np.array([row[2] for row in expected], float), atol=1e-6
    )
    assert decoder.most_at_once == 2
    assert max(decoder.sizes) == 3


def test_a_batch_that_cannot_be_decoded_whole_is_decoded_in_halves(
    photos: list[Path], open_tiny: Callable[[int], Backbone], first_at_once: Any
) -> None:
    def check(n: int) -> None:
        if n > 2:
            raise DeviceMemoryError("no memory")

    decoder, said = LaterDecoder(check, first_at_once(2)), []
    limit = BatchLimit(4, said.append)
    rows = chain.from_iterable(
        map_batches(photos, _SideBySide(open_tiny(4)), 2, seen_and_sizes, BatchHooks(limit=limit, decoder=decoder))
    )
    assert [name for name, *_ in rows] == [str(path) for path in photos]
    assert limit.images <= 2
    assert len(said) == 1


def test_a_decoder_that_fails_ends_the_run_after_what_was_finished(
    photos: list[Path], open_tiny: Callable[[int], Backbone]
) -> None:
    decoder = LaterDecoder(lambda _: (_ for _ in ()).throw(BackendError("no more")) if len(decoder.sizes) > 1 else None)
    batches = map_batches(photos * 5, open_tiny(4), 2, seen_and_sizes, BatchHooks(decoder=decoder))
    assert [name for name, *_ in next(batches)] == [str(path) for path in photos[:4]]
    with pytest.raises(BackendError, match="no more"):
        list(batches)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "network"))]
