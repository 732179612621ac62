"""Models that are made where installed ones live, by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from pc_engine.errors import DownloadError


@contextmanager
def making(name: str, models_dir: Path) -> Iterator[Path]:
    """Wait until no other process makes the model of this name, and yield where its weights may lie until it is made.

    Raises
    ------
    DownloadError
        If that folder, ``downloads`` beside ``models_dir``, cannot be written.
    """
    downloads = models_dir.parent / "downloads"
    with ExitStack() as stack:
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(downloads / f"{name}.lock"))
        except OSError as error:
            raise DownloadError(
                f"{downloads} cannot be written ({error.strerror}): say with PC_ENGINE_HOME where models may be kept."
            ) from None
        yield downloads
