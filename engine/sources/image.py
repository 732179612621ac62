"""One image of a source: its name, and how to get its bytes when its turn comes."""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

from pc_engine.errors import TOO_LARGE_FOR_MEMORY, ImageError, UsageError, first_line, system_reason
from pc_engine.sources.retries import retried

#: Files larger than this are refused unread: no picture that `pc_engine.decoding.decode` takes is.
MAX_BYTES = 2**31
_CHUNK = 1 << 20
#: How often what lies on a disk is tried to be read.
TRIES = 2
# One picture may be opened, but not loaded, and counted by several threads.
_LOADING = threading.Lock()
# A FIFO that took the place of a file is opened at once, writer or not. Windows has neither, but its text mode.
_UNBLOCKED = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source.

    Attributes
    ----------
    name
        What the row's ``path`` says; `pc_engine.sources.read_image` finds the bytes again by it.
    read
        Returns the bytes, on the thread that is to decode them. Raises ImageError, with one sentence, where it cannot.
    error
        That sentence, where it is known before and is not of what lies under the name; None for other images.
    count
        How many objects it shows, where its source says so; None where not.
    """

    name: str
    read: Callable[[], bytes] = field(compare=False, repr=False)
    error: str | None = field(default=None, compare=False, repr=False)
    count: int | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_bytes(cls, name: str, data: bytes | bytearray | memoryview, *, count: int | None = None) -> Self:
        """Return an image whose file is in memory, such as one that was uploaded, or a cell of a table.

        A ``lambda: data`` in a loop would give every image the last one's bytes: images are read later.

        Parameters
        ----------
        name
            What the row's ``path`` says.
        data
            The file, in any format that is read from a folder.
        count
            As the attribute.

        Raises
        ------
        UsageError
            If ``data`` are no bytes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UsageError(
                f"The file of '{name}' is of type {type(data).__name__}, expected bytes: give pixels as "
                "SourceImage.from_pixels(name, pixels)."
            )
        return cls(name, partial(bytes, bytes(data)), count=count)

    @classmethod
    def from_pixels(cls, name: str, pixels: Any, *, count: int | None = None) -> Self:
        """Return an image whose pixels are in memory.

        Parameters
        ----------
        name
            What the row's ``path`` says.
        pixels
            A Pillow image, which is turned if it holds an orientation, or an array of uint8: (H, W, 3), RGB, or (H, W),
            grey. It is read when its turn comes, and has to stay as it is until then.
        count
            As the attribute.

        Raises
        ------
        UsageError
            If it is neither, or has no pixel.
        """
        import numpy as np
        from PIL import Image

        if isinstance(pixels, Image.Image):
            if not all(pixels.size):
                raise UsageError(f"The picture '{name}' is {pixels.width} x {pixels.height} pixels: it shows nothing.")
        else:
            try:
                pixels = np.asarray(pixels)
            except Exception as error:  # of a tensor, which says how to make an array of it, or a list
                raise UsageError(f"The pixels of '{name}' cannot become an array: {first_line(error)}") from None
            grey_or_rgb = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
            if pixels.dtype != np.uint8 or not grey_or_rgb or not pixels.size:
                raise UsageError(
                    f"The pixels of '{name}' are of type {pixels.dtype}, shape {pixels.shape}, expected uint8 of shape "
                    "(height, width, 3), red first, or (height, width)."
                )
        return cls(name, partial(_as_file, pixels), count=count)


def local_image(path: str | os.PathLike[str]) -> SourceImage:
    """Return the image in a file of this machine."""
    name = os.fspath(path)
    return SourceImage(name, partial(read_file, name))


def as_source_image(image: object) -> SourceImage:
    """Return an image as it is, and a path as the image in that file.

    Raises
    ------
    UsageError
        If it is neither, or an image whose name is no text or whose ``read`` cannot be called.
    """
    if isinstance(image, SourceImage):
        if not isinstance(image.name, str):
            raise UsageError(f"The name of an image is {image.name!r:.60}, expected text: it is the path of its row.")
        if not callable(image.read):
            raise UsageError(
                f"The read of '{image.name}' is of type {type(image.read).__name__}, expected a function that returns "
                "the bytes of a file: give the bytes as SourceImage.from_bytes(name, data)."
            )
        return image
    if isinstance(image, (str, Path, os.PathLike)):  # whether it is a Path is found faster than what else may be one
        return local_image(image)
    raise UsageError(
        f"An image is of type {type(image).__name__}, expected a path or a SourceImage: give pixels as "
        "SourceImage.from_pixels(name, pixels), and the bytes of a file as SourceImage.from_bytes(name, data)."
    )


def broken_image(name: str, message: str) -> SourceImage:
    """Return what takes the place of images that cannot be listed: reading it says why."""
    return SourceImage(name, partial(_refuse, message), message)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the contents of a file.

    Raises
    ------
    ImageError
        If it is not a regular file, is too large, or cannot be read.
    """
    try:
        return retried(partial(_read_whole, path), TRIES)
    except OSError as error:
        raise ImageError(f"The file cannot be read: {system_reason(error)}.") from None
    except ValueError as error:  # a name that no file system can hold
        raise ImageError(f"The file cannot be read: {error}.") from None
    except MemoryError:
        raise ImageError(TOO_LARGE_FOR_MEMORY) from None


def _read_whole(path: str | os.PathLike[str]) -> bytes:
    descriptor, size = _open(path)
    try:
        check_size(size)
        return _read_to_end(descriptor, size)
    finally:
        os.close(descriptor)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to be read, without ever waiting for it.

    Raises
    ------
    ImageError
        If it is a folder, a FIFO, a device or the like.
    OSError, ValueError
        If it cannot be opened.
    """
    descriptor, _ = _open(path)
    try:
        _check_regular(os.fstat(descriptor))  # it may be another one by now
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _open(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the descriptor of what was a regular file just now, which is the caller's to close, and its size then."""
    # Looked at before, as opening a device may do things.
    status = os.stat(path)
    _check_regular(status)
    return os.open(path, os.O_RDONLY | _UNBLOCKED), status.st_size


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("It is a folder that was not listed: check its permissions, or name it as a source.")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("It is not a regular file.")


def _read_to_end(descriptor: int, size: int) -> bytes:
    """Return what a file holds, which said to be of ``size`` bytes; one that grows meanwhile is not read for ever."""
    # By the system's calls, and as few of them as do: at each, other threads take turns with Python's lock. One byte
    # more than the file has tells that this is its end.
    parts = [os.read(descriptor, size + 1)]
    total = len(parts[0])
    if total != size or not size:
        # It is not the file that was looked at, or none that says how large it is.
        _check_regular(os.fstat(descriptor))
    while total != size and (part := os.read(descriptor, max(size + 1 - total, _CHUNK))):
        total += len(part)
        check_size(total)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_size(size: int) -> None:
    """Raise ImageError if so many bytes are more than a picture has."""
    if size > MAX_BYTES:
        raise ImageError(f"The file is larger than {MAX_BYTES >> 30} GiB, the limit: it is hardly a photo.")


def _as_file(pixels: Any) -> bytes:
    """Return a file that holds what is in memory, for decoders to read as any other: nothing of it is lost."""
    from PIL import Image, ImageOps

    if isinstance(pixels, Image.Image):
        with _LOADING:
            pixels.load()
        # Of these modes no format holds pictures, or Pillow 12.3 writes none; TIFF holds no color to be seen through.
        mode = {"HSV": "RGB", "YCbCr": "RGB", "La": "LA", "RGBa": "RGBA"}.get(pixels.mode, pixels.mode)
        mode = "RGBA" if mode in ("L", "P", "RGB") and pixels.has_transparency_data else mode
        picture = ImageOps.exif_transpose(pixels)
        if mode == "I;16N":  # the machine's order of bytes, which Pillow converts to others by clipping
            mode = "I;16" if sys.byteorder == "little" else "I;16B"
            picture = Image.frombytes(mode, picture.size, picture.tobytes())
        picture = picture.convert(mode)
    else:
        picture = Image.fromarray(pixels)
    file = io.BytesIO()
    # Written seven times as fast as TIFF, which holds everything else that Pillow has.
    picture.save(file, "BMP" if picture.mode in ("L", "RGB") else "TIFF")
    return file.getvalue()


def _refuse(message: str) -> bytes:
    raise ImageError(message)
