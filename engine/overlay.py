"""Pictures of a result: the photo with its pointers and its count drawn on it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pc_engine.decoding.decode import Decode, decode_bytes
from pc_engine.errors import ImageError, PcEngineError, system_reason
from pc_engine.pointers import BoxPointer
from pc_engine.result import Result
from pc_engine.runs.drawn_pictures import picture_name
from pc_engine.sources import read_image

#: Colours that stay apart for most kinds of colour vision (Okabe & Ito, 2008).
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_LONGEST_SIDE = 1280


def draw_overlay(result: Result, picture: Image.Image) -> Image.Image:
    """Return a copy of the photo, at most 1280 pixels long, with the result's pointers and count.

    Parameters
    ----------
    result
        A result whose status is ok.
    picture
        The photo as displayed, RGB; it may have been made smaller already.
    """
    scale, size = _scale(result), overlay_size(result)
    canvas = picture.copy() if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas, "RGBA")
    line = max(2, round(max(size) / 160))
    for index, pointer in enumerate(result.pointers):
        colour = _COLOURS[index % len(_COLOURS)]
        outline = draw.rectangle if isinstance(pointer, BoxPointer) else draw.ellipse
        x0, y0, x1, y1 = (value * scale for value in pointer.bounds)
        # A dark line beneath keeps the coloured one visible on any background.
        outline((x0, y0, x1, y1), outline=(0, 0, 0, 160), width=line + 2)
        outline((x0, y0, x1, y1), outline=colour, width=line)
    _draw_count(draw, str(result.count), max(14, round(max(size) / 14)))
    return canvas


def overlay_size(result: Result) -> tuple[int, int]:
    """Return (width, height) of the picture that a result is drawn on: its photo's, or one that fits 1280 pixels."""
    scale = _scale(result)
    return max(round((result.width or 1) * scale), 1), max(round((result.height or 1) * scale), 1)


def write_overlay(result: Result, directory: Path, decode: Decode = decode_bytes) -> Path | None:
    """Draw the result onto its photo and write it to ``directory`` as a JPEG; return its path.

    A photo's picture has one name whenever and by whomever it is drawn: a run that goes on, or begins anew, replaces
    it. ``decode`` is what the run decodes files with. Returns None for an error row, and where the photo is no longer
    there, or is another one by now.

    Raises
    ------
    PcEngineError
        If the picture cannot be written.
    """
    if not result.ok:
        return None
    try:
        width, height = overlay_size(result)
        decoded = decode(read_image(result.path), height, width)
    except ImageError:
        return None
    if (decoded.width, decoded.height) != (result.width, result.height):
        return None
    path = directory / picture_name(result.path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draw_overlay(result, Image.fromarray(decoded.pixels)).save(path, quality=90)
    except OSError as error:
        raise PcEngineError(f"{path} cannot be written ({system_reason(error)}): make room and run again.") from None
    return path


def _scale(result: Result) -> float:
    return min(1.0, _LONGEST_SIDE / max(result.width or 1, result.height or 1))


def _draw_count(draw: ImageDraw.ImageDraw, text: str, size: int) -> None:
    font = ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    margin = size // 4
    draw.rectangle((0, 0, right - left + 2 * margin, bottom - top + 2 * margin), fill=(0, 0, 0, 190))
    draw.text((margin - left, margin - top), text, font=font, fill="white")
