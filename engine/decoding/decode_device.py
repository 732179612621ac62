"""Decoding on an NVIDIA GPU with nvImageCodec: a batch of files to pixels of the network's size in its memory.

What the GPU decodes are plain JPEGs: baseline, 8 bits, grey or YCbCr, complete. All else (progressive, CMYK, RGB in
JPEG, other formats, truncated files) goes to `pc_engine.decoding.decode`, and so does whatever nvImageCodec refuses:
its answer stands, be it pixels or the reason why there are none. So every image has the same outcome as on the CPU, and
a bad one costs its own row.

Pixels differ a little from those of the CPU: here a JPEG is decoded in full, there at a smaller scale that is still
twice the network's size, and each rounds colours its own way. On photos the difference is below `TOLERANCE` levels on
average; resizing itself is the same within one level (`pc_engine.decoding.image_resize`).

Photos in full take much more memory than what they are resized to: 256 of 12 megapixels 9 GB. So those of a batch are
decoded in pieces, as their headers tell their sizes, and each piece is freed before the next one begins.

Several batches are decoded at once, and Python's lock is let go only a few dozen times for each: a thread that has to
wait for it after every photo leaves the card idle most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from pc_engine.decoding.decode import MAX_PIXELS, Decode, DecodedImage, ImageSize, decode_bytes
from pc_engine.decoding.image_resize import DevicePicture, DeviceResizer
from pc_engine.decoding.nvimagecodec import NvImageCodec
from pc_engine.decoding.plain_jpeg import PlainJpeg, plain_jpeg
from pc_engine.errors import ImageError
from pc_engine.hardware.cuda import cuda_errors, device_index, keep_freed_memory, on_device
from pc_engine.hardware.machine import usable_cores
from pc_engine.kernels.array_module import Array
from pc_engine.packages import import_optional
from pc_engine.stage_clock import StageClock

#: Mean difference of a photo's pixels from those that `pc_engine.decoding.decode` gives, in levels of 0..255.
TOLERANCE = 2.0

_BYTES_PER_PIXEL = 3
# Of the memory that the network left free, what photos in full may take: nvImageCodec works in about as much again, and
# what follows the network needs some. A quarter is 1 GB where 4 are free, or some 28 photos of 12 megapixels: enough to
# keep a card busy. Where 37 are free, a batch of 256 such photos is one piece.
_SHARE_OF_MEMORY = 4
# Of what they took, at most so much is kept for the next batch, which is 256 photos of 1.4 megapixels: other processes
# may use the card, too.
_KEPT_BYTES = 1 << 30
# So many JPEGs that a codec refuses all at once are none of its doubts about single files.
_NO_ACCIDENT = 8
#: Batches decoded at once, which share that memory: while one is resized or handed over, which takes the host a while,
#: the card's JPEG engines have another one to work on. By one codec with all threads: alone it is faster than several
#: that share them, and with as many each a run is no faster (``bench/results/gpu-h200/decoding-ways.json``).
AT_ONCE = 2

#: A file as it is, decoded to the size asked for, or with the reason why it cannot be.
File = bytes | PlainJpeg | DecodedImage | ImageError
#: A picture in full, on the host or on a device.
Picture = Array | DevicePicture
Resize = Callable[[Sequence[Any], Sequence[int], Array], None]


class Codec(Protocol):
    """Decodes plain JPEGs, upright and in RGB."""

    def decode(self, data: Sequence[bytes]) -> Sequence[Picture | None]:
        """Return the picture of each file, uint8 (H, W, 3), None where it cannot."""


@dataclass(frozen=True)
class DecodedBatch:
    """Some files, decoded.

    Attributes
    ----------
    pixels
        uint8 (m, height, width, 3): the m images that could be read, in order. On a device they are complete.
    sizes
        For each file the size of its picture as displayed; None where it could not be read.
    errors
        For each file None, or the sentence that says why it could not be read.
    on_device
        Number of files that the codec decoded.
    """

    pixels: Array
    sizes: tuple[ImageSize | None, ...]
    errors: tuple[str | None, ...]
    on_device: int


class BatchDecoder:
    """Decodes batches; one thread at a time may use it. A `pc_engine.pipeline.FileDecoder`, as is `DeviceDecoder`.

    Parameters
    ----------
    codec
        What decodes plain JPEGs.
    resize
        Writes images of any sizes, resized, to slots of a batch.
    xp
        NumPy or CuPy: where the pixels are to be.
    pool
        Threads for what is decoded on the CPU.
    on_host
        What these threads decode a file with.
    max_pixels
        A JPEG that has more is left to them.
    piece_pixels
        The codec gets files of so many pixels together at once, and none that has more; None for no limit.
    settle
        Waits for what was resized: a piece is freed then.
    refused
        Called with the number of files where the codec decodes none of that many, and the cores some: not the files,
        but the codec is at fault, which says so in no other way.
    clock
        Where to note the time in the codec, its other users waited for, and that of resizing; None for nowhere.
    """

    def __init__(
        self,
        codec: Codec,
        resize: Resize,
        xp: Any,
        pool: Executor,
        on_host: Decode = decode_bytes,
        max_pixels: int = MAX_PIXELS,
        *,
        piece_pixels: int | None = None,
        settle: Callable[[], object] = lambda: None,
        refused: Callable[[int], object] = lambda _: None,
        clock: StageClock | None = None,
    ) -> None:
        self._clock = clock or StageClock()
        self._codec, self._resize, self._xp, self._pool = codec, resize, xp, pool
        self._on_host, self._settle, self._refused = on_host, settle, refused
        # A photo that may not fit into a GPU's memory would end the run: even a batch of it alone would be too large.
        self._piece_pixels = piece_pixels
        self._max_pixels = max_pixels if piece_pixels is None else min(max_pixels, piece_pixels)

    def takes(self, data: bytes) -> PlainJpeg | None:
        """Return a file as `decode` takes it where the codec decodes such ones; see `plain_jpeg`."""
        return plain_jpeg(data, self._max_pixels)

    def decode(self, data: Sequence[File], height: int, width: int) -> DecodedBatch:
        """Decode files held in memory to ``height`` x ``width``; what is decoded already, or an error, keeps its place.

        Raises
        ------
        BackendError
            If the codec fails altogether. A file that cannot be read is no error: see `DecodedBatch.errors`.
        """
        plain: dict[int, PlainJpeg] = {}
        waiting: dict[int, Future[DecodedImage | ImageError]] = {}
        others: dict[int, DecodedImage | ImageError] = {}
        for k, one in enumerate(data):
            file = self.takes(one) or one if isinstance(one, bytes) else one
            if isinstance(file, PlainJpeg):
                plain[k] = file
            elif isinstance(file, bytes):
                waiting[k] = self._on_a_core(file, height, width)  # which works on it meanwhile
            else:
                others[k] = file
        pixels = self._xp.empty((len(data), height, width, 3), np.uint8)
        sizes: dict[int, ImageSize] = {}
        for piece in self._in_pieces(plain):
            sizes |= self._decode_piece(piece, pixels)
            waiting |= {k: self._on_a_core(one.data, height, width) for k, one in piece.items() if k not in sizes}
        on_device = len(sizes)
        errors: list[str | None] = [None] * len(data)
        others |= {k: future.result() for k, future in waiting.items()}
        for k, found in others.items():
            if isinstance(found, ImageError):
                errors[k] = str(found)
            else:
                pixels[k] = self._xp.asarray(found.pixels)
                sizes[k] = ImageSize(found.width, found.height)
        if not on_device and len(plain) >= _NO_ACCIDENT and any(k in sizes for k in plain):
            self._refused(len(plain))
        if len(sizes) < len(data):
            pixels = pixels[self._xp.asarray(np.array(sorted(sizes), np.int64))]
        return DecodedBatch(pixels, tuple(map(sizes.get, range(len(data)))), tuple(errors), on_device)

    def _in_pieces(self, files: Mapping[int, PlainJpeg]) -> Iterator[dict[int, PlainJpeg]]:
        """Part files in order into pieces of no more than so many pixels together."""
        piece: dict[int, PlainJpeg] = {}
        total = 0
        for k, one in files.items():
            if piece and self._piece_pixels is not None and total + one.pixels > self._piece_pixels:
                yield piece
                piece, total = {}, 0
            piece[k] = one
            total += one.pixels
        if piece:
            yield piece

    def _decode_piece(self, piece: Mapping[int, PlainJpeg], pixels: Array) -> dict[int, ImageSize]:
        """Decode files to their places in ``pixels``; return the sizes of those that can be.

        Nothing holds on to the pictures in full when this returns.
        """
        with self._clock.measure("codec"):
            decoded = self._codec.decode([one.data for one in piece.values()])
        found = {k: picture for k, picture in zip(piece, decoded, strict=True) if picture is not None}
        with self._clock.measure("resize"):
            self._resize(list(found.values()), list(found), pixels)
            self._settle()
        shapes = {k: picture.shape for k, picture in found.items()}
        return {k: ImageSize(width, height) for k, (height, width, _) in shapes.items()}

    def _on_a_core(self, data: bytes, height: int, width: int) -> Future[DecodedImage | ImageError]:
        return self._pool.submit(self._decode_on_host, data, height, width)

    def _decode_on_host(self, data: bytes, height: int, width: int) -> DecodedImage | ImageError:
        try:
            return self._on_host(data, height, width)
        except ImageError as error:
            return error


def keep_memory_of_pictures() -> int:
    """Let CUDA keep what pictures took of the current GPU for the next batch; return how many bytes are free."""
    import cupy

    free, _ = cupy.cuda.runtime.memGetInfo()
    keep_freed_memory(min(free // _SHARE_OF_MEMORY, _KEPT_BYTES))
    return int(free)


class DeviceDecoder:
    """Decodes on a GPU with several `BatchDecoder`, each with a stream of its own, for as many threads at once.

    They share one codec, which takes one batch at a time: the others are resized and handed over meanwhile.

    It is to be made once the network has its memory: how many large photos are decoded at a time depends on the rest.

    Parameters
    ----------
    device
        ``"cuda:N"``.
    workers
        Threads for what is decoded on the CPU, and for what the codec does there.
    on_host, max_pixels
        See `BatchDecoder`.
    report
        Called with a sentence for the user.

    Attributes
    ----------
    clock
        Seconds in the codec and of resizing so far, of all decoders.

    Raises
    ------
    MissingPackageError
        If nvImageCodec or CuPy is not installed.
    BackendError
        If it does not work here.
    """

    def __init__(
        self,
        device: str,
        workers: int,
        on_host: Decode = decode_bytes,
        max_pixels: int = MAX_PIXELS,
        report: Callable[[str], object] = lambda _: None,
    ) -> None:
        cupy = import_optional("cupy", "decode on an NVIDIA GPU")
        self._index = device_index(device)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._device, self._report = device, report
        self._has_refused = False
        self.clock = StageClock()
        self._idle: SimpleQueue[tuple[BatchDecoder, Any]] = SimpleQueue()
        with cuda_errors("starting to decode"), on_device(self._index):
            # Whatever number it is told, nvImageCodec makes its streams on the GPU that is the current one. It takes
            # one thread less than there are cores, and warns whoever asks for more.
            codec = NvImageCodec(self._index, max(min(workers, usable_cores() - 1), 1))
            streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(AT_ONCE)]
            free = keep_memory_of_pictures()
        self._decoders = [
            BatchDecoder(
                codec,
                DeviceResizer(cupy),
                cupy,
                self._pool,
                on_host,
                max_pixels,
                piece_pixels=free // AT_ONCE // _SHARE_OF_MEMORY // _BYTES_PER_PIXEL,
                settle=stream.synchronize,
                refused=self._say_refused,
                clock=self.clock,
            )
            for stream in streams
        ]
        for pair in zip(self._decoders, streams, strict=True):
            self._idle.put(pair)

    def takes(self, data: bytes) -> PlainJpeg | None:
        """See `BatchDecoder.takes`."""
        return self._decoders[0].takes(data)

    def decode(self, data: Sequence[File], height: int, width: int) -> DecodedBatch:
        """Decode files held in memory; the pixels are complete when this returns. See `BatchDecoder.decode`.

        More threads than there are decoders wait for each other.
        """
        decoder, stream = self._idle.get()
        try:
            with cuda_errors("decoding images"), on_device(self._index), stream:
                batch = decoder.decode(data, height, width)
                # So that any stream may read the pixels.
                stream.synchronize()
                return batch
        finally:
            self._idle.put((decoder, stream))

    def _say_refused(self, n: int) -> None:
        if not self._has_refused:
            self._has_refused = True
            self._report(
                f"nvImageCodec could decode none of {n} JPEGs on {self._device}, so the CPU decodes such batches, "
                f"which is slower: if others use the GPU's memory, use fewer --processes or a smaller --batch-size."
            )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
