"""Writing model directories: all files or none."""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import onnx

from pc_engine.errors import ModelError, UsageError, first_line
from pc_engine.export.class_names import names_of_logits, read_class_names
from pc_engine.export.cooccurrence import Cooccurrence, append_cooccurrence
from pc_engine.export.evidence import BACKWARD_SETTINGS
from pc_engine.export.vgg import ARCHITECTURES, COUNT_FEATURES, VggSpec, build_vgg, vgg_input, vgg_taps
from pc_engine.export.weight_sources import source_name
from pc_engine.export.weights import read_weights
from pc_engine.files.durable import sync_file, sync_folder
from pc_engine.files.out_folder import check_vacant
from pc_engine.manifest import NETWORK_FILE, Manifest, Tap
from pc_engine.manifest_file import write_manifest

_Spec = TypeVar("_Spec")


def export_vgg(
    architecture: str | VggSpec,
    weights: str | Path,
    out_dir: Path,
    *,
    classes: Path | Sequence[str] = (),
    licence: str = "unknown",
    source: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    size: tuple[int, int] | None = None,
    cooccurrences: Sequence[Cooccurrence] = (),
) -> Manifest:
    """Make a model directory from VGG weights.

    Parameters
    ----------
    architecture
        ``"vgg16"``, ``"vgg19"``, another name of ``ARCHITECTURES``, or a specification.
    weights
        A weight file or ``random:SEED``; see ``read_weights``.
    out_dir
        The directory to make; it may exist only if it is empty.
    classes
        One name per logit, or a file that ``read_class_names`` reads; empty where names are unknown.
    licence, source
        For the manifest; ``source`` is the weight file's name unless given.
    mean, std
        Normalisation of the pixels, 0..255 RGB, where the weights were trained with another one than is usual for
        files of this kind.
    size
        Height and width of the input in pixels, multiples of what the weights were trained for; None for just that.
    cooccurrences
        Taps to compute beside the usual ones, from maps among these; the count SVM reads them after the others.

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    UsageError
        If the architecture is unknown, it does not take the size, ``out_dir`` is not empty or cannot be made, the
        pixels would be divided by 0, there are no maps for a co-occurrence, or not as many class names as logits.
    WeightsError, MissingPackageError
        As ``read_weights`` does, which raises UsageError, too.
    ModelError
        If the disk is full.
    """
    spec = find_architecture(architecture, ARCHITECTURES) if isinstance(architecture, str) else architecture
    if size is not None:
        spec = spec.at_size(*size)
    check_vacant(out_dir)
    check_normalisation(mean or (), std or ())
    loaded = read_weights(weights, spec)
    n_classes = loaded.tensors["classifier.6.weight"].shape[0]
    names = names_of_logits(read_class_names(classes) if isinstance(classes, Path) else classes, n_classes)
    mean, std = mean or loaded.mean, std or loaded.std
    model = build_vgg(spec, loaded.tensors, mean, std)
    del loaded  # half a gigabyte that serialising needs
    second_order = {wanted.name: Tap(wanted.name, (append_cooccurrence(model, wanted),)) for wanted in cooccurrences}
    manifest = Manifest(
        name=spec.name,
        input=vgg_input(spec, mean, std),
        taps={**vgg_taps(spec, n_classes), **second_order},
        count_features=(*COUNT_FEATURES, *second_order),
        classes=names,
        licence=licence,
        settings=BACKWARD_SETTINGS,
        source=source or source_name(weights),
    )
    return write_model_directory(model, manifest, out_dir)


def find_architecture(name: str, known: Mapping[str, _Spec]) -> _Spec:
    """Return the architecture called ``name``; raise UsageError listing the ``known`` ones where it is none of them."""
    if name not in known:
        raise UsageError(f"There is no architecture '{name}': choose one of {', '.join(known)}.")
    return known[name]


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UsageError unless pixels can be brought to the network's range by these numbers."""
    if not all(map(math.isfinite, (*mean, *std))) or min(std, default=1) <= 0:
        raise UsageError(
            f"Pixels less {', '.join(map(str, mean)) or 'their mean'}, divided by {', '.join(map(str, std))}, are no "
            f"input: give numbers to --mean and numbers above 0 to --std."
        )


def write_model_directory(model: onnx.ModelProto, manifest: Manifest, out_dir: Path) -> Manifest:
    """Write ``model`` and ``manifest`` as ``out_dir``; it appears complete, checked by ONNX's checker, or not at all.

    The same model gives the same bytes.
    """
    with _appearing_at_once(out_dir) as directory:
        path = directory / NETWORK_FILE
        path.write_bytes(model.SerializeToString(deterministic=True))
        check_network(path)
        return write_manifest(manifest, directory)


def check_network(path: Path) -> None:
    """Raise ModelError where ONNX's checker finds the file at fault."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"The network does not pass the ONNX checker ({first_line(error)}); report this, or mend it."
        ) from None


@contextmanager
def _appearing_at_once(out_dir: Path) -> Iterator[Path]:
    """Yield a new directory beside ``out_dir`` that takes its name when the block ends well, and else goes."""
    check_vacant(out_dir)
    place = out_dir.absolute()
    # Not by the number of the process: in containers that is that of the one before, which may have been killed.
    building = place.with_name(f".{place.name}.{secrets.token_hex(8)}.new")
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{out_dir} cannot be made ({error.strerror or error}): choose another place.") from None
    try:
        yield building
        for path in building.iterdir():
            sync_file(path)
        sync_folder(building)
        if out_dir.exists():
            out_dir.rmdir()  # empty; Windows does not replace it
        building.replace(out_dir)
        sync_folder(out_dir.absolute().parent)
    except OSError as error:
        raise ModelError(
            f"{out_dir} cannot be written ({error.strerror or error}): make room, or choose another place."
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
