"""From a file to the pixels that the network takes: uint8 RGB, upright, of the network's size.

The whole picture is squashed to the network's input, neither cropped nor letterboxed: every object stays in view, every
cell of the heatmap shows picture, and a pointer maps back to pixels by one factor for each axis.
"""

from __future__ import annotations

import ctypes
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError, _imaging
from PIL.TiffImagePlugin import TiffImageFile

from pc_engine.decoding.foreign_formats import RAW_PHOTO, advice_on, first_tags, is_raw_photo, name_format
from pc_engine.decoding.heif import HeifFormat, heif_format, is_read
from pc_engine.decoding.pixel_room import BYTES_PER_PIXEL
from pc_engine.decoding.pnm import refusal_of_comments
from pc_engine.decoding.tiff_kinds import has_pages, prepare_tiff, unread_kind
from pc_engine.decoding.to_rgb import bytes_per_pixel, to_rgb
from pc_engine.errors import TOO_LARGE_FOR_MEMORY, ImageError
from pc_engine.shown_text import for_sentence
from pc_engine.sources import read_file
from pc_engine.sources.folders import HEAD_BYTES, TIFF, looks_like_image

#: Formats that are decoded, beside those of `pc_engine.decoding.heif`. Everything else (EPS, PDF, ...) would start an
#: interpreter or another program. Several JPEGs in one file (MPO) come through JPEG.
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000")

#: Images with more pixels than this are refused by their header, if no other limit is given; Pillow's own for an error.
MAX_PIXELS = 178_956_970

_ORIENTATION_TAG = 0x0112
_FIRST_SIDEWAYS = 5  # orientations 5 to 8 swap width and height
#: A JPEG is decoded at the smallest DCT scale that still is this many times the network's size on each axis. 1 would be
#: cheaper, and change more counts: ``pc-engine bench decoding`` measures both.
JPEG_OVERSAMPLING = 2
_BOXED: dict[HeifFormat, str] = {"AVIF": "AVIF", "HEIF": "HEIC"}
# libjpeg-turbo's scales are so many parts of the full size.
_SCALES = 8
_LONGEST_REASON = 160


def _anywhere(_: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Limits:
    """What decoding a picture may take.

    Attributes
    ----------
    max_pixels
        A picture that has more by its header is refused. More than Pillow's own limit (178 million) takes
        `lift_pillow_limit`.
    room
        Called with the number of pixels that are about to be held, more where each takes more than `BYTES_PER_PIXEL`;
        what it returns is entered meanwhile, and may wait.
    """

    max_pixels: int = MAX_PIXELS
    room: Callable[[int], AbstractContextManager[None]] = _anywhere


DEFAULT_LIMITS = Limits()


class ImageSize(NamedTuple):
    """Pixels of a picture as displayed."""

    width: int
    height: int


@dataclass(frozen=True)
class DecodedImage:
    """Pixels for the network, and the size of the picture as displayed.

    Attributes
    ----------
    pixels
        uint8 (height, width, 3) in RGB, of the size asked for.
    width, height
        Size of the picture as displayed, in pixels.
    has_others
        Whether the file holds further pictures behind this one, its first: animations, pages. Not said of JPEGs, whose
        others are small copies and maps of this one, nor of TIFFs that have no others than such.
    """

    pixels: np.ndarray
    width: int
    height: int
    has_others: bool = False


#: From a file's bytes to pixels of so many rows and columns.
Decode = Callable[[bytes, int, int], DecodedImage]


def decode_image(
    path: str | Path, height: int, width: int, *, oversampling: int | None = JPEG_OVERSAMPLING
) -> DecodedImage:
    """Read an image file and resize it to ``height`` x ``width`` (bilinear with antialiasing).

    JPEG, PNG, WebP, AVIF, HEIC, BMP, TIFF, GIF, JPEG 2000 and PPM (of several pictures, the first); greyscale, palette,
    CMYK and 16-bit are converted to 8-bit RGB, transparency is laid over white, EXIF orientation is applied. A JPEG is
    decoded at a scale at which it still has ``oversampling`` times as many rows and columns, in full with None.

    Raises
    ------
    ImageError
        If the file is not a regular file, is empty, is not an image, is damaged, or is too large. The message is one
        sentence about this file.
    """
    return decode_bytes(read_file(path), height, width, oversampling=oversampling)


def decode_bytes(
    data: bytes,
    height: int,
    width: int,
    *,
    oversampling: int | None = JPEG_OVERSAMPLING,
    limits: Limits = DEFAULT_LIMITS,
) -> DecodedImage:
    """Decode an image held in memory; otherwise as `decode_image`."""
    needed = None if oversampling is None else (height * oversampling, width * oversampling)
    with _opened(data, needed, limits) as header:
        image = _display(header, data, needed)
        resized = image.picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return DecodedImage(np.asarray(resized), image.width, image.height, _has_others(header))


def displayed_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of a picture as displayed, from its header alone.

    Raises
    ------
    ImageError
        If the file has no header of an image.
    """
    try:
        with path.open("rb") as stream, Image.open(stream, formats=_formats(stream.peek())) as header:
            # The size of a TIFF is turned already, though the orientation stays until its pixels are read.
            sideways = header.format != "TIFF" and _orientation(header) >= _FIRST_SIDEWAYS
            return header.size[::-1] if sideways else header.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"The size of the image cannot be read{_reason(error)}.") from None


@dataclass(frozen=True)
class DisplayImage:
    """A picture as displayed; ``picture`` may be smaller than ``width`` x ``height`` if a smaller one was enough."""

    picture: Image.Image
    width: int
    height: int


def display_image(
    data: bytes, *, at_least: tuple[int, int] | None = None, limits: Limits = DEFAULT_LIMITS
) -> DisplayImage:
    """Decode to an upright 8-bit RGB picture.

    Parameters
    ----------
    data
        The file's bytes.
    at_least
        (height, width) that will be needed: a JPEG may then be decoded at a smaller scale. None decodes in full.
    limits
        What it may take.

    Raises
    ------
    ImageError
        As `decode_image`.
    """
    with _opened(data, at_least, limits) as header:
        return _display(header, data, at_least)


def lift_pillow_limit(max_pixels: int) -> None:
    """Let Pillow open pictures of so many pixels, as it has a limit of its own, one for the whole process."""
    own = Image.MAX_IMAGE_PIXELS
    if own is not None and max_pixels > 2 * own:  # it refuses at twice what it warns at
        Image.MAX_IMAGE_PIXELS = math.ceil(max_pixels / 2)


def silence_codecs() -> None:
    """Keep what libtiff and Pillow print about damaged files off the terminal of this process: their rows say it."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    try:
        # Where Pillow's module is looked up, so are the libraries that it was linked with.
        libraries = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(libraries, name)
            set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            set_handler(None)
    except (AttributeError, OSError):  # a Pillow without libtiff, or with one that is out of reach
        return


def _formats(head: bytes) -> tuple[str, ...]:
    """Return the formats whose decoders may see a file that begins with ``head``."""
    found = heif_format(head)
    if found is None:
        return PILLOW_FORMATS
    return (found,) if is_read(found) else ()


@contextmanager
def _opened(data: bytes, at_least: tuple[int, int] | None, limits: Limits) -> Iterator[ImageFile.ImageFile]:
    """Open an image by its header, with room for its pixels; what goes wrong meanwhile becomes an ImageError."""
    if not data:
        raise ImageError("The file is empty (0 bytes).")
    try:
        with Image.open(BytesIO(data), formats=_formats(data)) as header:
            if header.width * header.height > limits.max_pixels:
                raise ImageError(
                    f"It has {header.width} x {header.height} pixels, more than the limit of {limits.max_pixels:,}: "
                    f"scale it down, or raise the limit (--max-pixels)."
                )
            if header.format == "TIFF" and is_raw_photo(data, getattr(header, "tag_v2", {})):
                raise ImageError(_foreign(RAW_PHOTO))
            if isinstance(header, TiffImageFile) and (refusal := prepare_tiff(header)) is not None:
                raise ImageError(refusal)
            if (refusal := refusal_of_comments(data)) is not None:
                raise ImageError(refusal)
            with limits.room(_pixels_held(header, data, at_least)):
                yield header
    except UnidentifiedImageError:
        raise ImageError(_not_read(data)) from None
    except Image.DecompressionBombError:
        limit = min(limits.max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.max_pixels))
        raise ImageError(
            f"It has more than {limit:,} pixels, the limit: scale it down, or raise the limit (--max-pixels)."
        ) from None
    except MemoryError:
        raise ImageError(TOO_LARGE_FOR_MEMORY) from None
    except ImageError:
        raise
    except Exception as error:
        # On damaged files Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, ZeroDivisionError and
        # whatever else the bytes lead them to; and one file must never end a run.
        raise ImageError(f"The file is truncated or damaged{_reason(error)}.") from None


def _display(header: ImageFile.ImageFile, data: bytes, at_least: tuple[int, int] | None) -> DisplayImage:
    if _is_plain_jpeg(header):
        orientation = _orientation(header)
        sideways = orientation >= _FIRST_SIDEWAYS
        wanted = at_least[::-1] if at_least is not None and sideways else at_least
        width, height = header.size[::-1] if sideways else header.size
        return DisplayImage(_upright(_decode_jpeg(header, data, wanted), orientation), width, height)
    stored = to_rgb(header, data)
    # Asked for after the pixels were read: Pillow has turned a TIFF by then, and says so.
    picture = _upright(stored, _orientation(header))
    return DisplayImage(picture, picture.width, picture.height)


def _is_plain_jpeg(header: ImageFile.ImageFile) -> bool:
    return header.format in ("JPEG", "MPO") and header.mode in ("RGB", "L")


def _has_others(header: ImageFile.ImageFile) -> bool:
    """Whether there are pictures behind the one that was read; of a GIF it is looked for where the first one ends."""
    if header.format in ("JPEG", "MPO"):
        return False
    try:
        if not getattr(header, "is_animated", False):
            return False
        return not isinstance(header, TiffImageFile) or has_pages(header)
    except Exception:  # whatever a damaged second picture leads to costs the first one nothing
        return False


def _pixels_held(header: ImageFile.ImageFile, data: bytes, at_least: tuple[int, int] | None) -> int:
    """Return how many pixels of `BYTES_PER_PIXEL` decoding holds.

    Of a JPEG that is decoded at a smaller scale they are no more than that has; others may take more for each.
    """
    pixels = header.width * header.height
    if not _is_plain_jpeg(header):
        return math.ceil(pixels * bytes_per_pixel(header, data) / BYTES_PER_PIXEL)
    # All of a progressive one is in memory before its first pixel is.
    if at_least is None or header.info.get("progressive"):
        return pixels
    # Whichever way it is turned.
    scale = min(max(at_least) / min(header.size), 1)
    return int(pixels * (math.ceil(scale * _SCALES) / _SCALES) ** 2)


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else picture


def _orientation(header: Image.Image) -> int:
    # Damaged EXIF must not cost the image: it is then shown as stored, as browsers do.
    try:
        orientation = header.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # the EXIF parser raises whatever struct, TIFF or XML reading raises
        return 1
    return orientation if orientation in _TRANSPOSE else 1


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _decode_jpeg(header: ImageFile.ImageFile, data: bytes, at_least: tuple[int, int] | None) -> Image.Image:
    """Decode with libjpeg-turbo; a file that it refuses, and the wording of its fault, is left to Pillow."""
    rows, columns = (0, 0) if at_least is None else at_least
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=rows, min_width=columns, min_factor=1.0))
    except ValueError:
        pass
    # At a smaller scale where that is enough: odd ones may claim any size.
    if at_least is not None:
        header.draft(header.mode, at_least[::-1])
    return to_rgb(header, data)


def _not_read(data: bytes) -> str:
    found, boxed = name_format(data), heif_format(data)
    if found == RAW_PHOTO:
        return _foreign(found)
    if data.startswith(TIFF) and (unread := unread_kind(first_tags(data))) is not None:
        return unread
    if looks_like_image(data[:HEAD_BYTES]) or (boxed is not None and is_read(boxed)):
        return "The file is truncated or damaged (its header makes no sense)."
    if found is None:
        return f"It is not an image in a supported format ({_shown_formats()})."
    return _foreign(found)


def _foreign(found: str) -> str:
    return f"It is {found}, which cannot be read here: {advice_on(found, _shown_formats())}."


def _shown_formats() -> str:
    """Return what is read here: AVIF and HEIC, as far as the installed packages read them."""
    boxed = [shown for name, shown in _BOXED.items() if is_read(name)]
    return ", ".join(("JPEG", "PNG", "WebP", *boxed, "BMP", "TIFF", "GIF", "JPEG 2000", "PPM"))


def _reason(error: Exception) -> str:
    """Return why something failed, in parentheses and on one line; nothing where the decoder has only a number."""
    text = _ADDRESS.sub("", str(error)) or type(error).__name__
    line = " ".join(for_sentence(text).split())
    line = line[:_LONGEST_REASON].rstrip(".")
    return "" if _NUMBER_ONLY.fullmatch(line) else f" ({line})"


# Of objects in memory; it differs from run to run.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_NUMBER_ONLY = re.compile(r"decoder error -?\d+( when reading image file)?")
