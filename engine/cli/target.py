"""Where a command writes what it makes of a model."""

from __future__ import annotations

from pathlib import Path

from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import UsageError
from pc_engine.model import Model


def target_directory(model: Model, out: Path | None) -> Path:
    """Return ``out``, or the model's own directory where that is None.

    Raises
    ------
    UsageError
        If that is part of the installation.
    """
    if out is None and model.directory == EMBEDDED_DIRECTORY:
        raise UsageError("The embedded model is part of the installation: write a copy of it with --out DIR.")
    return model.directory if out is None else out


def make_folder(out: Path | None) -> None:
    """Find out before the measurement whether it can be written."""
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {out} cannot be written ({error.strerror}): choose another.") from None
