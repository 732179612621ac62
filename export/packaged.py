"""Models of weights that lie in an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pc_engine.catalogue import PACKAGED, PackagedWeights
from pc_engine.datasets.imagenet import imagenet_class_names
from pc_engine.errors import MissingPackageError, UsageError, WeightsError
from pc_engine.export.efficientnet_lite import export_efficientnet_lite
from pc_engine.export.model_lock import making
from pc_engine.export.settings import Description
from pc_engine.files.digest import file_sha256
from pc_engine.say import Say


def make_packaged(
    name: str, models_dir: Path, report: Say = lambda _: None, *, pins: Mapping[str, PackagedWeights] = PACKAGED
) -> Path:
    """Export the weights called ``name`` to ``models_dir/name`` and return that directory.

    The package is only asked for its file: nothing of it is imported.

    Parameters
    ----------
    name
        A key of ``pins``.
    models_dir
        Where installed models live; made if absent.
    report
        Called with a sentence where the model has to be made, or another process that makes it be waited for.
    pins
        What packages hold.

    Raises
    ------
    UsageError
        If ``name`` is not among ``pins``.
    MissingPackageError
        If the package is not installed.
    WeightsError
        If its file is not the pinned one.
    DownloadError, ModelError
        If models cannot be kept there, something else lies where it is to be, or the disk is full.
    """
    if name not in pins:
        raise UsageError(f"There are no weights '{name}' in a package, only {', '.join(pins)}.")
    pin, out_dir = pins[name], models_dir / name
    path = pin.find()
    if path is None:
        raise MissingPackageError(pin.package, pin.extra, f"make the model {name}")
    with making(name, models_dir, report) as weights_dir:
        if weights_dir is None:
            return out_dir
        found = file_sha256(path)
        if found != pin.sha256:
            raise WeightsError(
                f"{path} has sha256 {found[:12]}…, expected {pin.sha256[:12]}…: reinstall the package {pin.package}."
            )
        report(f"Making {name} from the package {pin.package}, once ...")
        description = Description(imagenet_class_names(), pin.licence, f"{pin.package} ({path.name})")
        export_efficientnet_lite(name, path, out_dir, description=description)
    return out_dir
