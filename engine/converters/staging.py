"""A data set comes under its name only once it is whole, and replaces none but an earlier one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import DatasetFormat
from pc_engine.errors import UsageError, system_reason
from pc_engine.files.durable import publish, rename, unpublished
from pc_engine.files.out_folder import removed_if_empty
from pc_engine.runs.out_file import check_no_file_of_a_run, check_replaceable

#: Lies in the folder of a data set, says what is in it, and shows that a conversion made it.
CONVERSION_FILE = "conversion.json"
# How names of files end, and hardly any of folders.
_OF_FILES = frozenset({".csv", ".json", ".jsonl", ".tsv", ".txt", ".xlsx", ".xml", ".yaml", ".yml", ".zip"})
# In that file: the names of those in the folders of the data set, which are removed with it.
_FILES = "files"


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
        unless it begins as the format's do, and a folder unless a conversion made all the files in it: it might be one
        of photos, or somebody may have added to it.
    """

    def __init__(self, out: Path, form: DatasetFormat, *, fresh: bool) -> None:
        self._out = out
        self._form = form
        self._check(fresh)
        self._target = Path(os.path.abspath(out))
        self._new = unpublished(self._target)
        self._old = self._target.with_name(f".{self._target.name}.old")
        # And those that lead to it, of which nothing is left either where nothing is published.
        self._folders = ExitStack()
        try:
            _remove(self._new)  # what a conversion left that was killed
            self._folders.enter_context(removed_if_empty(self._new))
            self._new.mkdir(parents=True)
        except OSError as error:
            self._folders.close()
            raise UsageError(f"{out} cannot be written ({system_reason(error)}): choose another place.") from None
        self.folder = DataFolder(self._new)

    def __enter__(self) -> Self:
        return self

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Bring the data set under its name; ``summary`` goes into the folder, where it is one."""
        if self._form.is_file:
            self.folder.close()
            source = self._new / self._form.makes[0]
            publish(source, self._out)
            return
        self._describe(summary)
        self.folder.close()
        if self._is_in_use():
            self._fill()
            return
        if self._target.exists():
            _remove(self._old)
            rename(self._target, self._old)
        try:
            rename(self._new, self._target)
        except OSError:
            with suppress(OSError):  # there may have been no earlier data set
                rename(self._old, self._target)
            raise
        _remove(self._old)

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk shows again when files are closed
            self.folder.close()
        shutil.rmtree(self._new, ignore_errors=True)
        self._folders.close()

    def _describe(self, summary: Mapping[str, Any]) -> None:
        stream = self.folder.open(CONVERSION_FILE)
        stream.write(json.dumps(summary, indent=1).removesuffix("\n}") + f',\n "{_FILES}": [')
        separator = "\n"
        for name in _files_below(self._new):
            stream.write(f"{separator}  {json.dumps(name)}")
            separator = ",\n"
        stream.write("\n ]\n}\n")

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
            self._check_name()
            return
        if self._form.is_file:
            self._check_file(fresh)
        else:
            self._check_folder(fresh)

    def _check_name(self) -> None:
        """Refuse to make a folder that is called as a file: whoever asked for it expects one."""
        if not self._form.is_file and self._out.suffix.lower() in _OF_FILES:
            raise UsageError(
                f"{self._out} is called as a file, but {self._form.name} makes a folder, with {self._form.makes[0]} in "
                f"it: name that, such as {self._out.with_suffix('')}."
            )

    def _check_file(self, fresh: bool) -> None:
        if self._out.is_dir():
            file = self._out / self._form.makes[0]
            raise UsageError(f"{self._out} is a folder, but {self._form.name} is one file: name it, such as {file}.")
        check_replaceable(self._out, self._is_of_the_format, f"conversion to {self._form.name}")
        if not fresh:
            raise UsageError(f"{self._out} exists: choose another name, or replace it with --fresh.")

    def _is_of_the_format(self, beginning: str) -> bool:
        return beginning.startswith(self._form.begins)

    def _check_folder(self, fresh: bool) -> None:
        if not self._out.is_dir() or self._out.is_symlink():
            raise UsageError(f"{self._out} is not a folder, but {self._form.name} makes one: choose another name.")
        names = sorted(path.name for path in self._out.iterdir())
        if not names:
            return
        foreign = next((name for name in names if not self._is_own(name)), None)
        if foreign is None:
            foreign = self._added() if CONVERSION_FILE in names else names[0]
        if foreign is not None:
            raise UsageError(
                f"{self._out} holds {foreign}, which no conversion to {self._form.name} wrote: choose another folder."
            )
        if not fresh:
            raise UsageError(
                f"{self._out} holds an earlier data set: choose another folder, or replace it with --fresh."
            )

    def _added(self) -> str | None:
        """Return a file in one of the folders that the conversion did not make; None if there is none."""
        made = _made(self._out / CONVERSION_FILE)
        return next((name for name in _files_below(self._out) if name not in made and not self._is_cache(name)), None)

    def _is_cache(self, name: str) -> bool:
        of, ending = os.path.splitext(self._out / name)
        return ending == self._form.cached != "" and os.path.isdir(of)

    def _is_own(self, name: str) -> bool:
        if name == CONVERSION_FILE:
            return True
        return name in self._form.makes and (self._out / name).is_symlink() == (name in self._form.links)


def _files_below(folder: Path, within: str = "") -> Iterator[str]:
    """Yield the names of the files in the folders of a folder, with slashes; links are not followed."""
    with os.scandir(folder / within) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(folder, f"{within}{entry.name}/")
            elif within:
                yield f"{within}{entry.name}"


def _made(description: Path) -> frozenset[str]:
    """Return the files that a data set's description says are in its folders; none where it is not one."""
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return frozenset()
    files = found.get(_FILES) if isinstance(found, dict) else None
    return frozenset(name for name in files if isinstance(name, str)) if isinstance(files, list) else frozenset()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
