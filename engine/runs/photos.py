"""The photos of a run that is done: where they lie now, and small pictures of them."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from pc_engine.decoding.decode import MAX_PIXELS, Limits, display_image, lift_pillow_limit
from pc_engine.runs.moved_photos import MovedPhotos, photo_is_there
from pc_engine.runs.run_state import started_in
from pc_engine.sources import read_image
from pc_engine.sources.addresses import is_address
from pc_engine.sources.parquet_shards import row_of
from pc_engine.sources.stored_names import original_name
from pc_engine.sources.tar_shards import without_repeat

_QUALITY = 75
# The middle of WebP's scale from fast to small: the last steps cost much time and save little.
_EFFORT = 2
# Whatever rows that others made say: 3 GiB.
_MOST_PIXELS = 1 << 30


class RunPhotos:
    """Finds the photos that the rows of a run name.

    A relative path is one from the folder that the run was started in, which ``run.json`` names. What does not lie
    there is looked for from the present folder and from those above the run directory, as all of it may have moved.

    Parameters
    ----------
    directory
        The run directory.
    moved_to
        The folder that its photos lie in now, see `MovedPhotos`; None where they lie as they did.

    Raises
    ------
    UsageError
        If there is no such folder.
    """

    def __init__(self, directory: Path, moved_to: Path | None = None) -> None:
        self._moved = None if moved_to is None else MovedPhotos(directory, moved_to)
        self._bases = [*started_in(directory), Path.cwd(), *directory.absolute().parents]
        self._base_of: dict[str, Path] = {}
        self._absent: set[str] = set()

    def file(self, path: str) -> Path | None:
        """Return the absolute path of the file that a row's path names, there or not; None for an address."""
        if is_address(path):
            return None
        path = self._now(path)
        return self._find_stored(path) or self._likely_base(os.path.dirname(path)) / path

    def is_gone(self, path: str) -> bool:
        """Whether a row's path names a file that is nowhere; what an address leads to is not looked at."""
        return not is_address(path) and self._find_stored(self._now(path)) is None

    def read(self, path: str) -> bytes:
        """Return the bytes of the photo that a row's path names.

        Raises
        ------
        ImageError
            If it is no longer there, or cannot be read.
        """
        file = self.file(path)
        return read_image(self._absolute(path) if file is None else os.fspath(file))

    def _absolute(self, address: str) -> str:
        """Return an address such as ``tar://a.jpg::shard.tar`` with the file that it ends with as an absolute path."""
        inside, separator, last = address.rpartition("::")
        shard, _ = without_repeat(last)
        archive = self.file(shard) if separator else None
        if archive is None or not os.path.lexists(archive):
            return address
        return f"{inside}{separator}{archive}{last.removeprefix(shard)}"

    def _now(self, path: str) -> str:
        return path if self._moved is None else self._moved.path(path)

    def _find_stored(self, path: str) -> Path | None:
        found = self._find(path)
        return self._find(original) if found is None and (original := original_name(path)) != path else found

    def _find(self, path: str) -> Path | None:
        """Return where a file is; None where it is nowhere."""
        folder = os.path.dirname(path)
        if folder in self._absent:
            return None
        # The folder alone does not tell: there may be one of that name in several places, and "" is one everywhere.
        known = self._base_of.get(folder)
        for base in self._bases if known is None else [known, *self._bases]:
            if photo_is_there(base / path):
                self._base_of[folder] = base
                return base / path
        if not any(os.path.lexists(base / folder) for base in self._bases):
            self._absent.add(folder)
        return None

    def _likely_base(self, folder: str) -> Path:
        """Return from where a file that is nowhere is to be missed."""
        return self._base_of.get(folder) or next(
            (base for base in self._bases if folder and os.path.lexists(base / folder)), self._bases[0]
        )


def names_a_file(path: str) -> bool:
    """Whether a row's path names a file, there or not, and neither an address nor an image within a file."""
    return not is_address(path) and row_of(path) is None


def small_picture(data: bytes, longest_side: int, *, pixels: int = 0) -> bytes:
    """Return a photo as displayed, as WebP, made smaller where it is longer than ``longest_side`` pixels.

    ``pixels`` are those that the run found in it: its ``--max-pixels`` may have let more pass than is usual.

    Raises
    ------
    ImageError
        If it is no image that can be read.
    """
    limits = Limits(max(MAX_PIXELS, min(pixels, _MOST_PIXELS)))
    lift_pillow_limit(limits.max_pixels)
    picture = display_image(data, at_least=(longest_side, longest_side), limits=limits).picture
    picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY, method=_EFFORT)
    return stream.getvalue()
