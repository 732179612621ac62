"""The flow of a run: decoding, the network and what follows it overlap; batches come out in the order of the source.

Decoding threads work a bounded number of images ahead. Each batch is then taken by one of as many threads as the
network takes batches at once, which runs the network and finishes the batch; while it does, the others keep the cores
busy. Memory holds a few batches, whatever the number of images. On a GPU each of these threads has a stream of its own,
and what the GPU decodes is only read ahead: it is decoded with its batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from pc_engine.backbone import Backbone, Taps
from pc_engine.decoding.decode import Decode, DecodedImage, decode_bytes
from pc_engine.decoding.decode_device import DecodedBatch
from pc_engine.decoding.plain_jpeg import PlainJpeg
from pc_engine.decoding.read_ahead import Entry, count_readable, decode_ahead
from pc_engine.errors import BackendError, DeviceMemoryError
from pc_engine.hardware.device_work import make_room_on, working_on
from pc_engine.kernels import finite_images
from pc_engine.kernels.array_module import Array, get_array_module, to_host
from pc_engine.say import Say
from pc_engine.sources import SourceImage
from pc_engine.stage_clock import StageClock

# Images decoded ahead of the network, in batches: enough to ride out a slow file, few enough to keep memory flat.
_BATCHES_AHEAD = 2
# Batches handed to the network's threads beyond those it takes at once, so that none waits for its next one.
_BATCHES_QUEUED = 1
# A group of images, most of them unreadable, is passed on when it is this many times the size of a batch.
_UNREADABLE_GROUP = 4
_UNGUARDED = nullcontext()

Finished = TypeVar("Finished")


class FileDecoder(Protocol):
    """Decodes the files of a batch, such as `decode_device.DeviceDecoder`; used by several threads."""

    def takes(self, data: bytes) -> PlainJpeg | None:
        """Return a file that it decodes better than the cores, as `decode` takes it; they do the others ahead."""

    def decode(self, files: Sequence[PlainJpeg | DecodedImage], height: int, width: int) -> DecodedBatch:
        """Decode files to ``height`` x ``width``; what is decoded already joins them."""


class BatchLimit:
    """The most images that the network gets at once: a batch, or less where a GPU's memory turns out not to hold it.

    Parameters
    ----------
    images
        Images in a batch.
    report
        Called with a sentence when the limit is lowered for the first time.
    """

    def __init__(self, images: int, report: Say = lambda _: None) -> None:
        self.images = images
        self._batch, self._report = images, report
        self._lock = threading.Lock()

    def lower(self, images: int) -> bool:
        """Halve the limit, as so many ``images`` did not fit; return False if that was one already."""
        with self._lock:
            first = self.images == self._batch
            # Batches that ran side by side may all have failed at the same size.
            self.images = min(self.images, max(images // 2, 1))
            if images > 1 and first:
                self._report(
                    f"The GPU's memory cannot hold {images} images at once: the run goes on with smaller batches."
                )
        return images > 1


@dataclass(frozen=True)
class TapBatch:
    """Some images of the source, in order, and what the network said about those that could be read.

    Attributes
    ----------
    entries
        All images, readable or not.
    rows
        The positions in ``entries`` of the n images in ``taps``.
    taps
        Tap name to array of shape (n, ...); None if no image could be read.
    finite
        (n,) bool, False where the network returned NaN or infinity; the image's taps are zero then. It lies beside the
        taps while a batch is finished, and on the host in those of `tap_batches`.
    """

    entries: tuple[Entry, ...]
    rows: tuple[int, ...]
    taps: Taps | None
    finite: Array

    def finite_taps(self) -> dict[str, Array]:
        """Return the taps of the images whose taps are finite, where ``finite`` is on the host; none without any."""
        kept = np.flatnonzero(self.finite)
        taps = self.taps or {}
        return {name: tap[get_array_module(tap).asarray(kept)] for name, tap in taps.items()}


@dataclass(frozen=True)
class BatchHooks:
    """What goes along with the batches of a run; all of it can be kept from one run to the next.

    Attributes
    ----------
    clock
        Where to note the time of each stage.
    limit
        The most images that the network gets at once; lowered where the memory of a GPU does not hold them. Kept, it
        need not be found again. None for the network's own batches.
    decoder
        What decodes files where the network runs; None for the decoding threads alone.
    decode
        What the decoding threads call for each file.
    guard
        Entered, by several threads at once, around all that uses the network or ``decoder``; what it raises ends the
        run.
    room
        Called with the number of images before the network runs, on its thread: where it may put their taps on a GPU.
    """

    clock: StageClock = field(default_factory=StageClock)
    limit: BatchLimit | None = None
    decoder: FileDecoder | None = None
    decode: Decode = decode_bytes
    guard: AbstractContextManager[object] = _UNGUARDED
    room: Callable[[int], Taps | None] = lambda _: None


def tap_batches(images: Iterable[SourceImage | Path], backbone: Backbone, workers: int) -> Generator[TapBatch]:
    """Decode the images, run the network on them, and yield its taps batch by batch, in the order of ``images``.

    Unreadable images are entries without taps. At most a few batches are held at a time.
    """
    return map_batches(images, backbone, workers, lambda batch: replace(batch, finite=to_host(batch.finite)))


def map_batches(
    images: Iterable[SourceImage | Path],
    backbone: Backbone,
    workers: int,
    finish: Callable[[TapBatch], Finished],
    hooks: BatchHooks | None = None,
) -> Generator[Finished]:
    """Decode the images, run the network on them, and yield ``finish(batch)`` of each batch, in order.

    Parameters
    ----------
    images
        The images, or paths of their files.
    backbone
        The network. It gets as many batches at once as it takes.
    workers
        Decoding threads.
    finish
        Called on the thread that ran the network, while other batches run; so it must not depend on other batches. On a
        GPU what it gets lies there, and what it does goes to this thread's stream.
    hooks
        What else goes along; None for what suits a run by itself.

    Raises
    ------
    BackendError
        If the network fails, after all that was finished before has been yielded.
    """
    hooks = hooks or BatchHooks()
    clock, decoder = hooks.clock, hooks.decoder
    limit = hooks.limit or BatchLimit(backbone.request.batch_size)
    pixels = backbone.request.manifest.input
    size = backbone.request.batch_size
    in_flight = backbone.parallel + _BATCHES_QUEUED
    # Together with the batch that `_grouped` holds back.
    ahead = size * (_BATCHES_AHEAD - (decoder is None and backbone.parallel > 1))
    shape = pixels.height, pixels.width
    later = None if decoder is None else decoder.takes
    stretches = decode_ahead(images, shape, workers, ahead=ahead, clock=clock, later=later, decode=hooks.decode)

    def process(group: tuple[Entry, ...]) -> tuple[list[Finished], BackendError | None]:
        finished: list[Finished] = []
        try:
            for piece in _run_in_pieces(group, limit, backbone.request.device, run):
                finished.append(piece)  # noqa: PERF402 (what was finished before an error is kept)
        except BackendError as error:
            return finished, error
        return finished, None

    def results(processed: Future[tuple[list[Finished], BackendError | None]]) -> Iterator[Finished]:
        finished, error = processed.result()
        yield from finished
        if error is not None:
            raise error

    def run(piece: tuple[Entry, ...]) -> Finished:
        with hooks.guard:
            if decoder is not None and any(entry.data is not None for entry in piece):
                return finish(_run_network(*_decode_batch(piece, decoder, shape, clock), backbone, hooks))
            pixels = [entry.image.pixels for entry in piece if isinstance(entry.image, DecodedImage)]
            return finish(_run_network(piece, np.stack(pixels) if pixels else None, backbone, hooks))

    pool = ThreadPoolExecutor(backbone.parallel, thread_name_prefix="network")
    # Closed here, else the decoding threads would last as long as an error of the network is held.
    with closing(stretches):
        try:
            waiting: deque[Future[tuple[list[Finished], BackendError | None]]] = deque()
            # A GPU computes batches one after the other, a short one in the time of a whole one.
            cores_share = backbone.parallel if backbone.request.device == "cpu" else 1
            for group in _grouped(stretches, size, cores_share):
                waiting.append(pool.submit(process, group))
                if len(waiting) >= in_flight:
                    yield from results(waiting.popleft())
            while waiting:
                yield from results(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run_in_pieces(
    group: tuple[Entry, ...], limit: BatchLimit, device: str, run: Callable[[tuple[Entry, ...]], Finished]
) -> Iterator[Finished]:
    """Run a group on ``device``, whole if the limit allows; a piece that does not fit is halved and run again.

    Once it is run again as it is: there may be room in what libraries keep for later, and have then given back.
    """
    left, tried = list(group), False
    while left:
        piece, behind = _cut(left, limit.images)
        try:
            with working_on(device):
                finished = run(piece)
        except DeviceMemoryError:
            if tried and not limit.lower(count_readable(piece)):
                raise
            tried = not tried
        else:
            yield finished
            left, tried = behind, False
            continue
        # Only here is what the error held on to free.
        make_room_on(device)


def _decode_batch(
    group: tuple[Entry, ...], decoder: FileDecoder, size: tuple[int, int], clock: StageClock
) -> tuple[tuple[Entry, ...], Array | None]:
    """Return a group with its files decoded, or the reasons why not, and the pixels of all images in it."""
    files: dict[int, PlainJpeg | DecodedImage] = {}
    for i, entry in enumerate(group):
        if entry.data is not None:
            files[i] = entry.data
        elif isinstance(entry.image, DecodedImage):
            files[i] = entry.image
    with clock.measure("decode"):
        batch = decoder.decode(list(files.values()), *size)
    entries = list(group)
    for i, shown, error in zip(files, batch.sizes, batch.errors, strict=True):
        entries[i] = group[i]._replace(image=shown, error=error, data=None)
    return tuple(entries), batch.pixels if len(batch.pixels) else None


def _run_network(group: tuple[Entry, ...], images: Array | None, backbone: Backbone, hooks: BatchHooks) -> TapBatch:
    if images is None:
        return TapBatch(group, (), None, np.ones(0, bool))
    rows = tuple(i for i, entry in enumerate(group) if entry.image is not None)
    with hooks.clock.measure("network"):
        taps = backbone.infer(images, hooks.room(len(images)))
    return TapBatch(group, rows, taps, finite_images(list(taps.values())))


def _grouped(stretches: Iterable[Sequence[Entry]], size: int, parallel: int) -> Iterator[tuple[Entry, ...]]:
    """Group entries so that each group holds ``size`` readable images, and the last ones give every core its share.

    A long row of unreadable images is passed on in groups as well, so that it neither fills memory nor stalls progress.
    """
    # One batch is held back where several run at once: were the source to end, half the cores would have nothing to do.
    enough = 2 * size + 1 if parallel > 1 else size
    held: list[Entry] = []
    readable = 0
    for stretch in stretches:
        held += stretch
        readable += count_readable(stretch)
        while readable >= enough or len(held) >= _UNREADABLE_GROUP * size:
            group, held = _cut(held, size)
            readable -= count_readable(group)
            yield group
    share = min(size, max(-(-readable // parallel), 1))
    while held:
        group, held = _cut(held, share)
        yield group


def _cut(entries: list[Entry], size: int) -> tuple[tuple[Entry, ...], list[Entry]]:
    """Split entries behind the one that makes ``size`` readable images, or behind a long row that holds fewer."""
    end, missing = 0, size
    last = min(_UNREADABLE_GROUP * size, len(entries))
    while missing and end < last:
        part = entries[end : min(end + missing, last)]
        end += len(part)
        missing -= count_readable(part)
    return tuple(entries[:end]), entries[end:]
