"""The photos of a run that is done: where they lie now, and small pictures of them."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from pc_engine.decode import display_image
from pc_engine.sources import read_image
from pc_engine.sources.addresses import is_address

_QUALITY = 75
# The middle of WebP's scale from fast to small: the last steps cost much time and save little.
_EFFORT = 2


class RunPhotos:
    """Finds the photos that the rows of a run name.

    A relative path is one from the folder that the run was started in. Where nothing lies there from the present one,
    the folders above the run directory are tried, so that a run may be looked at from anywhere.
    """

    def __init__(self, directory: Path) -> None:
        self._bases = [Path.cwd(), *directory.absolute().parents]
        self._base_of: dict[str, Path] = {}

    def file(self, path: str) -> Path | None:
        """Return the absolute path of the file that a row's path names, there or not; None for an address."""
        if is_address(path):
            return None
        folder, name = os.path.split(path)
        base = self._base_of.get(folder)
        if base is None:
            base = self._base_of[folder] = self._find_base(folder)
        return base / folder / name

    def read(self, path: str) -> bytes:
        """Return the bytes of the photo that a row's path names.

        Raises
        ------
        ImageError
            If it is no longer there, or cannot be read.
        """
        file = self.file(path)
        return read_image(path if file is None else os.fspath(file))

    def _find_base(self, folder: str) -> Path:
        try:
            return next((base for base in self._bases if (base / folder).is_dir()), self._bases[0])
        except (OSError, ValueError):  # a name that no file system can hold
            return self._bases[0]


def small_picture(data: bytes, longest_side: int) -> bytes:
    """Return a photo as displayed, as WebP, made smaller where it is longer than ``longest_side`` pixels.

    Raises
    ------
    ImageError
        If it is no image that can be read.
    """
    picture = display_image(data, at_least=(longest_side, longest_side)).picture
    picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY, method=_EFFORT)
    return stream.getvalue()
