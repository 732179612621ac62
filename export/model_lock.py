"""Models that are made where installed ones live, by one process at a time, and once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from pc_engine.errors import DownloadError, ModelError, system_reason
from pc_engine.files.locks import hush_filelock
from pc_engine.manifest import MANIFEST_FILE
from pc_engine.say import Say

_AT_ONCE = 0.5  # seconds


@contextmanager
def making(name: str, models_dir: Path, report: Say) -> Iterator[Path | None]:
    """Wait until no other process makes the model of this name, and yield where its weights may lie until it is made.

    That it has to be waited for is said through ``report``: a download takes minutes. Where the model is made by then,
    None is yielded.

    Raises
    ------
    DownloadError
        If that folder, ``downloads`` beside ``models_dir``, cannot be written.
    ModelError
        If something else lies where the model is to be: before anything is fetched for it.
    """
    downloads = models_dir.parent / "downloads"
    hush_filelock()  # of the locks of downloads, too
    with ExitStack() as stack:
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            lock = downloads / f"{name}.lock"
            try:
                stack.enter_context(WeakFileLock(lock, timeout=_AT_ONCE))
            except TimeoutError:
                report(f"Waiting for another process, which is making {name} ...")
                stack.enter_context(WeakFileLock(lock))
        except OSError as error:
            raise DownloadError(
                f"{downloads} cannot be written ({system_reason(error)}): say with PC_ENGINE_HOME where models may "
                f"be kept."
            ) from None
        model = models_dir / name
        is_made = (model / MANIFEST_FILE).is_file()
        if not is_made and model.is_dir() and any(model.iterdir()):
            raise ModelError(f"{model} is no longer a model, as it lacks {MANIFEST_FILE}: delete the folder.")
        yield None if is_made else downloads
