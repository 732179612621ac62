"""Decoding on an NVIDIA GPU with nvImageCodec: a batch of files to pixels of the network's size in its memory.

What the GPU decodes are plain JPEGs: baseline, 8 bits, grey or YCbCr, complete. All else (progressive, CMYK, RGB in
JPEG, other formats, truncated files) goes to `pc_engine.decode`, and so does whatever nvImageCodec refuses: its answer
stands, be it pixels or the reason why there are none. So every image has the same outcome as on the CPU, and a bad one
costs its own row.

Pixels differ a little from those of the CPU: here a JPEG is decoded in full, there at a smaller scale that is still
twice the network's size, and each rounds colours its own way. On photos the difference is below `TOLERANCE` levels on
average; resizing itself is the same within one level (`pc_engine.image_resize`).

Photos in full take much more memory than what they are resized to: 256 of 12 megapixels 9 GB. So those of a batch are
decoded in pieces, as their headers tell their sizes, and each piece is freed before the next one begins.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pc_engine.backends.cuda import cuda_errors, device_index, library_failure, on_device
from pc_engine.decode import MAX_PIXELS, DecodedImage, decode_bytes
from pc_engine.errors import ImageError, MissingPackageError
from pc_engine.image_resize import DeviceResizer
from pc_engine.kernels.array_module import Array

#: Mean difference of a photo's pixels from those that `pc_engine.decode` gives, in levels of 0..255.
TOLERANCE = 2.0

# Colours between the pixels that have some are interpolated, as libjpeg does.
_OPTIONS = ":fancy_upsampling=1"

_START, _END, _SCAN, _ADOBE, _BASELINE = 0xD8, 0xD9, 0xDA, 0xEE, 0xC0
# Markers that say the frame's kind and size, and the three among their numbers that say other things.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_RGB = b"RGB"

_BYTES_PER_PIXEL = 3
# Of the memory that the network left free, what photos in full may take: nvImageCodec works in about as much again, and
# what follows the network needs some. A quarter is 1 GB where 4 are free, or some 28 photos of 12 megapixels: enough to
# keep a card busy. Where 37 are free, a batch of 256 such photos is one piece.
_SHARE_OF_MEMORY = 4

#: A file as it is, decoded to the size asked for, or with the reason why it cannot be.
File = bytes | DecodedImage | ImageError
Resize = Callable[[Sequence[Array], Sequence[int], Array], None]
#: From a file's bytes to pixels of so many rows and columns.
Decode = Callable[[bytes, int, int], DecodedImage]


class Codec(Protocol):
    """Decodes plain JPEGs, upright and in RGB."""

    def decode(self, data: Sequence[bytes]) -> list[Array | None]:
        """Return uint8 (H, W, 3) of each file, None where it cannot."""


@dataclass(frozen=True)
class DecodedBatch:
    """Some files, decoded.

    Attributes
    ----------
    pixels
        uint8 (m, height, width, 3): the m images that could be read, in order. On a device they are complete.
    images
        For each file its `DecodedImage`, whose pixels are a view of ``pixels``; None where it could not be read.
    errors
        For each file None, or the sentence that says why it could not be read.
    on_device
        Number of files that the codec decoded.
    """

    pixels: Array
    images: tuple[DecodedImage | None, ...]
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
    ) -> None:
        self._codec, self._resize, self._xp, self._pool = codec, resize, xp, pool
        self._on_host, self._settle = on_host, settle
        # A photo that may not fit into a GPU's memory would end the run: even a batch of it alone would be too large.
        self._piece_pixels = piece_pixels
        self._max_pixels = max_pixels if piece_pixels is None else min(max_pixels, piece_pixels)

    def takes(self, data: bytes) -> bool:
        """Whether the codec decodes such a file; see `plain_jpeg_pixels`."""
        return plain_jpeg_pixels(data, self._max_pixels) > 0

    def decode(self, data: Sequence[File], height: int, width: int) -> DecodedBatch:
        """Decode files held in memory to ``height`` x ``width``; what is decoded already, or an error, keeps its place.

        Raises
        ------
        BackendError
            If the codec fails altogether. A file that cannot be read is no error: see `DecodedBatch.errors`.
        """
        plain: dict[int, tuple[bytes, int]] = {}
        for k, one in enumerate(data):
            if isinstance(one, bytes) and (count := plain_jpeg_pixels(one, self._max_pixels)):
                plain[k] = one, count
        # The cores work on the others meanwhile.
        waiting = {k: self._on_a_core(one, height, width) for k, one in enumerate(data) if k not in plain}
        pixels = self._xp.empty((len(data), height, width, 3), np.uint8)
        sizes: dict[int, tuple[int, int]] = {}
        for piece in self._in_pieces(plain):
            sizes |= self._decode_piece(piece, pixels)
            waiting |= {k: self._on_a_core(one, height, width) for k, one in piece.items() if k not in sizes}
        on_device = len(sizes)
        errors: list[str | None] = [None] * len(data)
        for k, future in waiting.items():
            found = future.result()
            if isinstance(found, ImageError):
                errors[k] = str(found)
            else:
                pixels[k] = self._xp.asarray(found.pixels)
                sizes[k] = found.width, found.height
        readable = sorted(sizes)
        if len(readable) < len(data):
            pixels = pixels[self._xp.asarray(np.array(readable, np.int64))]
        images: list[DecodedImage | None] = [None] * len(data)
        for slot, k in enumerate(readable):
            images[k] = DecodedImage(pixels[slot], *sizes[k])
        return DecodedBatch(pixels, tuple(images), tuple(errors), on_device)

    def _in_pieces(self, files: Mapping[int, tuple[bytes, int]]) -> Iterator[dict[int, bytes]]:
        """Part files, each with its pixels, in order into pieces of no more than so many together."""
        piece: dict[int, bytes] = {}
        total = 0
        for k, (one, count) in files.items():
            if piece and self._piece_pixels is not None and total + count > self._piece_pixels:
                yield piece
                piece, total = {}, 0
            piece[k] = one
            total += count
        if piece:
            yield piece

    def _decode_piece(self, piece: Mapping[int, bytes], pixels: Array) -> dict[int, tuple[int, int]]:
        """Decode files to their places in ``pixels``; return width and height of those that can be.

        Nothing holds on to the pictures in full when this returns.
        """
        decoded = self._codec.decode(list(piece.values()))
        found = {k: picture for k, picture in zip(piece, decoded, strict=True) if picture is not None}
        self._resize(list(found.values()), list(found), pixels)
        self._settle()
        return {k: (picture.shape[1], picture.shape[0]) for k, picture in found.items()}

    def _on_a_core(self, data: File, height: int, width: int) -> Future[DecodedImage | ImageError]:
        return self._pool.submit(self._decode_on_host, data, height, width)

    def _decode_on_host(self, data: File, height: int, width: int) -> DecodedImage | ImageError:
        if not isinstance(data, bytes):
            return data
        try:
            return self._on_host(data, height, width)
        except ImageError as error:
            return error


class DeviceDecoder:
    """A `BatchDecoder` on a GPU, with a stream of its own; threads that use it wait for each other.

    It is to be made once the network has its memory: how many large photos are decoded at a time depends on the rest.

    Parameters
    ----------
    device
        ``"cuda:N"``.
    workers
        Threads for what is decoded on the CPU, and for what the codec does there.
    on_host, max_pixels
        See `BatchDecoder`.

    Raises
    ------
    MissingPackageError
        If nvImageCodec or CuPy is not installed.
    BackendError
        If it does not work here.
    """

    def __init__(self, device: str, workers: int, on_host: Decode = decode_bytes, max_pixels: int = MAX_PIXELS) -> None:
        try:
            import cupy
        except ImportError:
            raise MissingPackageError("cupy", "gpu", "decode on an NVIDIA GPU") from None
        self._index = device_index(device)
        codec = NvImageCodec(self._index, workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        with cuda_errors("starting to decode"), on_device(self._index):
            self._stream = cupy.cuda.Stream(non_blocking=True)
            free, _ = cupy.cuda.runtime.memGetInfo()
        self._decoder = BatchDecoder(
            *(codec, DeviceResizer(cupy), cupy, self._pool, on_host, max_pixels),
            piece_pixels=free // _SHARE_OF_MEMORY // _BYTES_PER_PIXEL,
            settle=self._stream.synchronize,
        )
        self._lock = threading.Lock()

    def takes(self, data: bytes) -> bool:
        """See `BatchDecoder.takes`."""
        return self._decoder.takes(data)

    def decode(self, data: Sequence[File], height: int, width: int) -> DecodedBatch:
        """Decode files held in memory; the pixels are complete when this returns. See `BatchDecoder.decode`."""
        with self._lock, cuda_errors("decoding images"), on_device(self._index), self._stream:
            batch = self._decoder.decode(data, height, width)
            # So that any stream may read the pixels.
            self._stream.synchronize()
            return batch

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class NvImageCodec:
    """nvImageCodec's decoder, which shares a batch out among the card's JPEG engines, its cores and the host's.

    Parameters
    ----------
    index
        Number of the GPU; -1 for the host alone.
    threads
        Its threads on the host; 0 for one for each core, which several processes would share.
    """

    def __init__(self, index: int, threads: int = 0) -> None:
        try:
            nvimgcodec: Any = importlib.import_module("nvidia.nvimgcodec")
        except ImportError:
            raise MissingPackageError("nvidia.nvimgcodec", "gpu", "decode on an NVIDIA GPU") from None
        self._on_host = index < 0
        # Its warnings are about single files, which have a row that says what is wrong.
        kinds = nvimgcodec.BackendKind
        settings: dict[str, Any] = {"device_id": index, "max_num_cpu_threads": threads, "options": _OPTIONS}
        if self._on_host:
            settings |= {
                "device_id": nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
                "backends": [nvimgcodec.Backend(kinds.CPU_ONLY)],
            }
        try:
            self._decoder = nvimgcodec.Decoder(**settings)
        except RuntimeError as error:
            raise library_failure("nvImageCodec cannot be used here", error) from None
        self._parameters = nvimgcodec.DecodeParams(apply_exif_orientation=True, color_spec=nvimgcodec.ColorSpec.SRGB)

    def decode(self, data: Sequence[bytes]) -> list[Array | None]:
        """See `Codec.decode`. On a GPU the arrays are CuPy's, ready for the current stream."""
        stream = 0
        if not self._on_host:
            import cupy

            stream = cupy.cuda.get_current_stream().ptr
        try:
            images = self._decoder.decode(list(data), params=self._parameters, cuda_stream=stream)
        except RuntimeError as error:
            raise library_failure("nvImageCodec failed", error) from None
        return [None if image is None else self._array(image) for image in images]

    def _array(self, image: Any) -> Array | None:
        if self._on_host:
            array: Array = np.asarray(image)
        else:
            import cupy

            array = cupy.asarray(image)
        return array if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8 else None


def plain_jpeg_pixels(data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """Return the pixels of a complete baseline JPEG of 8 bits, grey or YCbCr.

    Returns 0 for any other file, and for one of more than ``max_pixels``. Looks at the markers ahead of the picture, in
    any order of segments, and for the one that ends it.
    """
    if data[:2] != bytes((0xFF, _START)):
        return 0
    place, is_ycc = 2, True
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # markers may be preceded by any number of these
            place += 1
            continue
        if marker in (_SCAN, _END):
            return 0
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if marker in _FRAMES:
            complete = is_ycc and marker == _BASELINE and data.rfind(b"\xff\xd9") > place
            return _plain_frame_pixels(segment, max_pixels) if complete else 0
        if marker == _ADOBE and segment[:5] == b"Adobe":
            is_ycc = len(segment) < 12 or segment[11] != 0  # 0: three components are RGB
        place += 2 + length
    return 0


def _plain_frame_pixels(segment: bytes, max_pixels: int) -> int:
    """Return the pixels of a frame of 8 bits, one or three components that are no RGB, of an allowed size; else 0."""
    if len(segment) < 6:
        return 0
    height, width = (int.from_bytes(segment[k : k + 2], "big") for k in (1, 3))
    components = segment[5]
    names = segment[6 : 6 + 3 * components : 3]
    plain = segment[0] == 8 and components in (1, 3) and names != _RGB
    return height * width if plain and height * width <= max_pixels else 0


__all__ = [
    "TOLERANCE",
    "BatchDecoder",
    "Codec",
    "DecodedBatch",
    "DeviceDecoder",
    "NvImageCodec",
    "plain_jpeg_pixels",
]
