"""A model as it lies on disk: a network, its manifest, and what was fitted for it."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from pc_engine.errors import ManifestError, MissingPartError, UsageError
from pc_engine.files.digest import file_sha256
from pc_engine.files.durable import publish, sync_file
from pc_engine.files.storage import model_argument
from pc_engine.fitted.counter import check_counter, load_counter
from pc_engine.fitted.signatures import check_signatures, load_signatures
from pc_engine.manifest import (
    COUNTER_FILE,
    EVIDENCE,
    MODEL_FILES,
    NETWORK_FILE,
    QUANTISED_FILES,
    SIGNATURE_SETTING,
    SIGNATURES_FILE,
    Manifest,
)
from pc_engine.manifest_file import read_manifest, write_manifest
from pc_engine.modes import MODES, FittedParts, Mode, Part, settings_for
from pc_engine.modes.p2c_manifest import heat_name

# Of a file that is whole, while the manifest beside it may still speak of the one before.
_TO_COME = ".next"

#: Which file of a model's directory holds which of its fitted parts.
PART_FILES: Mapping[Part, str] = {"counter": COUNTER_FILE, "signatures": SIGNATURES_FILE}
_FIT_COMMAND: dict[Part, tuple[str, str, str]] = {
    "counter": ("count SVM", "fit-counter", "a folder, a CSV, or sos:DIR"),
    "signatures": ("signature dictionary", "fit-signatures", "a folder with one subfolder per class, or a CSV"),
}


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A model directory whose files were checked against its manifest.

    ``clusters_set_aside`` says that the counter knew how far to believe clusters, but those of other heatmaps.
    """

    directory: Path
    manifest: Manifest
    parts: FittedParts = field(default_factory=FittedParts)
    clusters_set_aside: bool = False

    def __repr__(self) -> str:
        fitted = [part.name for part in fields(self.parts) if getattr(self.parts, part.name) is not None]
        return f"<Model {self.name} in {self.directory}{' with ' * bool(fitted)}{' and '.join(fitted)}>"

    @property
    def name(self) -> str:
        """The name in its manifest."""
        return self.manifest.name

    @property
    def argument(self) -> str:
        """What ``--model`` takes for it on a command line; its name may be that of another."""
        return model_argument(self.directory)

    @property
    def network(self) -> Path:
        """The ONNX file."""
        return self.directory / NETWORK_FILE

    @property
    def lost(self) -> dict[str, str]:
        """The sums of fitted parts that are gone, by the names of their files."""
        files = {name: self.manifest.files.get(name) for part, name in PART_FILES.items() if not self.parts.has(part)}
        return {name: digest for name, digest in files.items() if digest is not None}

    def has_lost(self, mode: Mode) -> bool:
        """Whether a part that ``mode`` needs is gone."""
        return any(PART_FILES[part] in self.lost for part in self.missing_parts(mode))

    def missing_parts(self, mode: Mode) -> tuple[Part, ...]:
        """Return the fitted parts that ``mode`` needs and this model lacks."""
        return tuple(part for part in mode.parts(self.manifest) if not self.parts.has(part))

    def require(self, mode: Mode, to_come: Collection[Part] = ()) -> None:
        """Raise MissingPartError, naming the command that helps, if the model cannot run ``mode``.

        Parts ``to_come`` may be missing: the caller is about to fit them.
        """
        for part in self.missing_parts(mode):
            if part not in to_come:
                raise MissingPartError(self.lack_of(part, mode))

    def lack_of(self, part: Part, mode: Mode) -> str:
        """Say that ``mode`` needs a part that this model has not, and with which command to make it."""
        what, command, data = _FIT_COMMAND[part]
        lacks = f"has lost: restore {PART_FILES[part]}, or" if PART_FILES[part] in self.lost else "does not have:"
        return (
            f"Mode {mode.name} needs a {what}, which the model '{self.name}' {lacks} make one from labelled "
            f"images with 'pc-engine {command} DATA --model {self.argument}' (DATA: {data})"
            f"{self._instead_of(part)}."
        )

    def _instead_of(self, part: Part) -> str:
        """Say what else would do, as the end of a sentence."""
        if part == "counter":
            return "" if self.missing_parts(MODES["p2c"]) else ", or use --mode p2c, which needs none"
        if EVIDENCE in self.manifest.taps:
            is_so = {
                SIGNATURES_FILE: SIGNATURES_FILE in self.lost,
                SIGNATURE_SETTING: SIGNATURE_SETTING in self.manifest.settings,
                "sha256": True,
            }
            listed = " and ".join(f"'{line}'" for line, is_there in is_so.items() if is_there)
            return f"; or remove {listed} from its manifest, as the network gives evidence"
        return "; or export the network again, as 'pc-engine export' adds evidence that needs none, where it can"


def _heat_name(manifest: Manifest) -> str | None:
    """Return `heat_name`; that a setting is not allowed is wrong with the manifest here."""
    try:
        return heat_name(manifest, settings_for(manifest).p2c)
    except UsageError as error:
        raise ManifestError(str(error)) from None


def describe_model(directory: Path) -> tuple[Manifest, tuple[Part, ...]]:
    """Return the manifest of a model directory and which parts are fitted, without a look into large files.

    Raises
    ------
    ManifestError
        If the manifest is absent or malformed, or there is no network beside it.
    """
    manifest = read_manifest(directory)
    _require_network(directory, manifest)
    return manifest, tuple(part for part, name in PART_FILES.items() if (directory / name).is_file())


def load_model(directory: str | os.PathLike[str]) -> Model:
    """Load a model directory.

    Raises
    ------
    UsageError
        If ``directory`` is neither text nor a path.
    ManifestError
        If the manifest is absent or malformed, or a file differs from its sha256; or, where the counter weighs clusters
        in, if a setting is not allowed.
    ModelError
        If the count SVM or the signatures do not fit the network.
    """
    if not isinstance(directory, (str, os.PathLike)):
        raise UsageError(f"The model directory is {directory!r:.60}, expected text or a path.")
    directory = Path(directory)
    manifest = read_manifest(directory)
    try:
        return _load(directory, manifest)
    except ManifestError:
        # A process that fits the model exchanges its files one after the other.
        again = read_manifest(directory)
        if again == manifest:
            raise
    return _load(directory, again)


def _load(directory: Path, manifest: Manifest) -> Model:
    _require_network(directory, manifest)
    files = _checked_files(directory, manifest)
    quantised = {kind: network for kind, network in manifest.quantised.items() if QUANTISED_FILES[kind] in files}
    # A part that is gone is missed: evidence in place of a dictionary would point elsewhere, and nobody be told.
    files |= {name: manifest.files[name] for name in PART_FILES.values() if name in manifest.files}
    manifest = replace(manifest, files=files, quantised=quantised)
    counter = signatures = None
    set_aside = False
    if (directory / COUNTER_FILE).is_file():
        counter = load_counter(directory / COUNTER_FILE)
        check_counter(counter, manifest)
        if counter.clusters is not None and counter.clusters.signatures != _heat_name(manifest):
            # Made with other heat: what it says of those clusters does not hold for these.
            counter, set_aside = replace(counter, clusters=None), True
    if (directory / SIGNATURES_FILE).is_file():
        signatures = load_signatures(directory / SIGNATURES_FILE)
        check_signatures(signatures, manifest)
    return Model(directory, manifest, FittedParts(counter, signatures), set_aside)


def _require_network(directory: Path, manifest: Manifest) -> None:
    """Raise ManifestError where there is no network, and none that `write_model` left to be settled."""
    with contextlib.suppress(OSError):  # what cannot be mended is found by its sum, or here
        _settle(directory, manifest)
    if not (directory / NETWORK_FILE).is_file():
        raise ManifestError(f"{directory} has a manifest but no {NETWORK_FILE}: put the network there.")


def write_model(
    model: Model, directory: Path, manifest: Manifest, changes: Mapping[str, Callable[[Path], object]] | None = None
) -> Manifest:
    """Write a model's files, some of them changed, and its manifest into ``directory``, which may be its own.

    However the process ends, `load_model` finds in the directory what was there before, or all of this.

    Parameters
    ----------
    model
        Whose files are copied, unless the directory is its own.
    directory
        The model directory; created if need be.
    manifest
        What to write; its sums are not looked at.
    changes
        Files that are made or replaced, by name: what writes each one to the path that it is given.

    Returns
    -------
    Manifest
        As written, with the files' sums.

    Raises
    ------
    OSError
        If the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    writes = {**_copies_of(model, directory), **(changes or {})}
    to_come = {name: directory / (name + _TO_COME) for name in writes}
    for name, write in writes.items():
        write(to_come[name])
        sync_file(to_come[name])
    manifest = write_manifest(manifest, directory, to_come, model.lost)
    # From here on the manifest speaks of the new files, which are there under one name or the other.
    _settle(directory, manifest)
    return manifest


def _settle(directory: Path, manifest: Manifest) -> None:
    """Bring files under their names that `write_model` left beside them when it was cut off, if they are its own."""
    for name in MODEL_FILES:
        path = directory / (name + _TO_COME)
        # Another process that loads the model may do so first.
        with contextlib.suppress(FileNotFoundError):
            if file_sha256(path) == manifest.files.get(name):
                publish(path, directory / name)


def _copies_of(model: Model, directory: Path) -> dict[str, Callable[[Path], object]]:
    """Return what writes copies of a model's files in ``directory``; none in the model's own."""
    if directory.resolve() == model.directory.resolve():
        return {}
    present = [name for name in MODEL_FILES if (model.directory / name).is_file()]
    return {name: functools.partial(shutil.copyfile, model.directory / name) for name in present}


def _checked_files(directory: Path, manifest: Manifest) -> dict[str, str]:
    """Return the sha256 of each file; a file that a manifest written by hand does not list is taken as it is."""
    sums = {}
    for name in MODEL_FILES:
        path = directory / name
        if not path.is_file():
            continue
        sums[name] = file_sha256(path)
        if sums[name] != manifest.files.get(name, sums[name]):
            raise ManifestError(
                f"{path} is not the file that its manifest describes (sha256 {sums[name][:12]}..., expected "
                f"{manifest.files[name][:12]}...): restore it, or remove its line under 'files' and the line "
                f"'sha256' if you changed it."
            )
    return sums
