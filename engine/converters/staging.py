"""A data set comes under its name only once it is whole, and replaces none but an earlier one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import Format
from pc_engine.errors import UsageError
from pc_engine.out_file import check_no_file_of_a_run, check_replaceable

#: Lies in the folder of a data set, says what is in it, and shows that a conversion made it.
CONVERSION_FILE = "conversion.json"


class Staging:
    """A folder beside the target for a data set that is being written, removed if that is not published.

    Parameters
    ----------
    out
        The file or folder that the data set is to be.
    form
        Its format.
    fresh
        Replace an earlier data set there instead of refusing it.

    Raises
    ------
    UsageError
        If ``out`` exists and may not be replaced, or cannot be written, or is a file of a run. A file is never replaced
        unless it begins as the format's do, and a folder unless a conversion made it and nothing was added at its top:
        it might be one of photos.
    """

    def __init__(self, out: Path, form: Format, *, fresh: bool) -> None:
        self._out = out
        self._form = form
        self._check(fresh)
        self._target = Path(os.path.abspath(out))
        self._new = self._target.with_name(f".{self._target.name}.new")
        self._old = self._target.with_name(f".{self._target.name}.old")
        try:
            _remove(self._new)  # what a conversion left that was killed
            self._new.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"{out} cannot be written ({error.strerror}): choose another place.") from None
        self.folder = DataFolder(self._new)

    def __enter__(self) -> Self:
        return self

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Bring the data set under its name; ``summary`` goes into the folder, where it is one."""
        if self._form.is_file:
            self.folder.close()
            source = self._new / self._form.makes[0]
            with source.open("rb") as stream:
                os.fsync(stream.fileno())
            source.replace(self._out)
            return
        self.folder.open(CONVERSION_FILE).write(json.dumps(summary, indent=1) + "\n")
        self.folder.close()
        if self._is_in_use():
            self._fill()
            return
        if self._target.exists():
            _remove(self._old)
            self._target.rename(self._old)
        self._new.rename(self._target)
        _remove(self._old)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk shows again when files are closed
            self.folder.close()
        shutil.rmtree(self._new, ignore_errors=True)

    def _is_in_use(self) -> bool:
        """Whether another folder in the target's place would leave somebody in the old one: a shell, or a mount."""
        return Path.cwd().is_relative_to(self._target.resolve()) or os.path.ismount(self._target)

    def _fill(self) -> None:
        """Bring the data set into the folder that is there: its mark leaves first and comes last."""
        (self._target / CONVERSION_FILE).unlink(missing_ok=True)
        for name in self._form.makes:
            old = self._target / name
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        for path in sorted(self._new.iterdir(), key=lambda path: path.name == CONVERSION_FILE):
            shutil.move(path, self._target / path.name)

    def _check(self, fresh: bool) -> None:
        if self._form.is_file:
            check_no_file_of_a_run(self._out)
        if not os.path.lexists(self._out):
            return
        if self._form.is_file:
            self._check_file(fresh)
        else:
            self._check_folder(fresh)

    def _check_file(self, fresh: bool) -> None:
        if self._out.is_dir():
            file = self._out / self._form.makes[0]
            raise UsageError(f"{self._out} is a folder, and {self._form.name} is one file: name it, such as {file}.")
        check_replaceable(self._out, self._is_of_the_format, f"conversion to {self._form.name}")
        if not fresh:
            raise UsageError(f"{self._out} exists: choose another name, or replace it with --fresh.")

    def _is_of_the_format(self, beginning: str) -> bool:
        return beginning.startswith(self._form.begins)

    def _check_folder(self, fresh: bool) -> None:
        if not self._out.is_dir() or self._out.is_symlink():
            raise UsageError(f"{self._out} is not a folder, which {self._form.name} makes: choose another name.")
        names = sorted(path.name for path in self._out.iterdir())
        if not names:
            return
        foreign = [name for name in names if not self._is_own(name)]
        if foreign or CONVERSION_FILE not in names:
            raise UsageError(
                f"{self._out} holds {(foreign or names)[0]}, which no conversion to {self._form.name} wrote: choose "
                f"another folder."
            )
        if not fresh:
            raise UsageError(
                f"{self._out} holds an earlier data set: choose another folder, or replace it with --fresh."
            )

    def _is_own(self, name: str) -> bool:
        if name == CONVERSION_FILE:
            return True
        return name in self._form.makes and (self._out / name).is_symlink() == (name in self._form.links)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
