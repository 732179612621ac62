"""Where a command writes what it makes of a model, or finds out about it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import ModelError, UsageError
from pc_engine.files import out_folder
from pc_engine.manifest import MANIFEST_FILE, NETWORK_FILE, Manifest
from pc_engine.model import Model, load_model
from pc_engine.runs.out_file import check_replaceable


def target_of(model: Model, out: Path | None) -> tuple[Model, Path]:
    """Return the model that is changed, and the directory that it is written to, which can be made and written.

    These are ``model`` and its own directory where ``out`` is None, or a vacant ``out``, which becomes a copy. Where
    the same network lies in ``out`` already, it is the model there, which keeps what is not made anew.

    Raises
    ------
    UsageError
        If the directory is part of the installation, holds anything else, or cannot be written.
    """
    changed, directory = _changed_model(model, out)
    # Ahead of work that takes minutes.
    out_folder.check_makeable(directory, "choose another with --out")
    return changed, directory


def _changed_model(model: Model, out: Path | None) -> tuple[Model, Path]:
    if out is None and model.directory == EMBEDDED_DIRECTORY:
        raise UsageError("The embedded model is part of the installation: write a copy of it with --out DIR.")
    if out is None:
        return model, model.directory
    if os.path.isfile(out / MANIFEST_FILE):  # no error where it may not be entered
        try:
            there = load_model(out)
        except ModelError:
            pass  # which is as good as any other file
        else:
            if _without_parts(there.manifest) == _without_parts(model.manifest):
                return there, out
    out_folder.check_vacant(out)
    return model, out


def check_report_folder(out: Path | None, report: str, begins: str, wrote: str) -> None:
    """Find out before the measurement whether its figures can be written to ``out``, if that is given.

    Parameters
    ----------
    out
        A folder that is new or empty, or that an earlier measurement wrote: its charts are replaced.
    report, begins
        The file by which such a one is known, and how it begins.
    wrote
        What the measurement is called, completing "no … wrote it".

    Raises
    ------
    UsageError
        If the folder holds anything else, or cannot be written.
    """
    if out is None:
        return
    if os.path.lexists(out / report):
        check_replaceable(out / report, lambda beginning: beginning.startswith(begins), wrote)
    else:
        out_folder.check_vacant(out)
    out_folder.check_makeable(out)


def _without_parts(manifest: Manifest) -> Manifest:
    """Return what a manifest says of the network itself, whatever was fitted to it or measured of it."""
    return replace(manifest, quantised={}, fidelity={}, files={NETWORK_FILE: manifest.files[NETWORK_FILE]})
