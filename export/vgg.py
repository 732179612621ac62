"""Model directories of VGG networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pc_engine.export.architectures import find_architecture
from pc_engine.export.class_names import names_of_logits
from pc_engine.export.cooccurrence import Cooccurrence, append_cooccurrence
from pc_engine.export.evidence import BACKWARD_SETTINGS
from pc_engine.export.model_directory import write_model_directory
from pc_engine.export.settings import (
    DEFAULT_DESCRIPTION,
    DEFAULT_PREPROCESSING,
    Description,
    Preprocessing,
    check_normalisation,
)
from pc_engine.export.vgg_graph import ARCHITECTURES, COUNT_FEATURES, VggSpec, build_vgg, vgg_input, vgg_taps
from pc_engine.export.vgg_weights import read_weights
from pc_engine.export.weight_sources import source_name
from pc_engine.files.out_folder import check_vacant
from pc_engine.manifest import Manifest, Tap


def export_vgg(
    architecture: str | VggSpec,
    weights: str | Path,
    out_dir: Path,
    *,
    cooccurrences: Sequence[Cooccurrence] = (),
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING,
    description: Description = DEFAULT_DESCRIPTION,
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
    cooccurrences
        Taps to compute beside the usual ones, from maps among these; the count SVM reads them after the others.
    preprocessing
        What the network is shown; its sides are multiples of what it was trained for.
    description
        For the manifest.

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
    mean, std = preprocessing.mean, preprocessing.std
    if preprocessing.size is not None:
        spec = spec.at_size(*preprocessing.size)
    check_vacant(out_dir)
    check_normalisation(mean or (), std or ())
    loaded = read_weights(weights, spec)
    n_classes = loaded.tensors["classifier.6.weight"].shape[0]
    names = names_of_logits(description.classes, n_classes)
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
        licence=description.licence,
        settings=BACKWARD_SETTINGS,
        source=description.source or source_name(weights),
    )
    return write_model_directory(model, manifest, out_dir)
