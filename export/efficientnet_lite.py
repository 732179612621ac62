"""Model directories of EfficientNet-Lite: which of its layers are counted by, and pointed at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from pc_engine.errors import UsageError
from pc_engine.export.architectures import find_architecture
from pc_engine.export.classifier import import_classifier
from pc_engine.export.cooccurrence import Cooccurrence
from pc_engine.export.efficientnet_graph import LITE_ARCHITECTURES, STRIDE, LiteSpec, build_efficientnet_lite
from pc_engine.export.efficientnet_weights import read_lite_weights
from pc_engine.export.settings import (
    DEFAULT_DESCRIPTION,
    DEFAULT_PREPROCESSING,
    DEFAULT_READOUT,
    Description,
    Preprocessing,
    Readout,
    check_normalisation,
)
from pc_engine.export.weight_sources import source_name
from pc_engine.files.out_folder import check_vacant
from pc_engine.manifest import Manifest, NetworkInput
from pc_engine.say import Say

# Subtracted from pixels of 0..255, and what they are then divided by.
_MEAN, _STD = (127.0,) * 3, (128.0,) * 3
# What the counter reads, and what is pointed at, by the names of `usual_taps` (``bench/results/photo-model.json``).
_COUNT_FEATURES = ("pooled", "project", "middle")
_COOCCURRENCES = (Cooccurrence("middle", 0), Cooccurrence("middle", 3))
_HEAT = ("project", "conv_prev")


def export_efficientnet_lite(
    architecture: str | LiteSpec,
    weights: str | Path,
    out_dir: Path,
    *,
    readout: Readout = DEFAULT_READOUT,
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING,
    description: Description = DEFAULT_DESCRIPTION,
    report: Say = lambda _: None,
) -> Manifest:
    """Make a model directory from EfficientNet-Lite weights.

    Parameters
    ----------
    architecture
        A name of ``LITE_ARCHITECTURES``, or a specification.
    weights
        A weight file or ``random:SEED``; see ``read_lite_weights``.
    out_dir
        The directory to make; it may exist only if it is empty.
    readout
        What is read of the network: ``taps`` beside those of `usual_taps`, or in their place, and ``count_features``,
        ``cooccurrences`` and ``heat`` in the place of the usual ones; with ``count_features`` alone no co-occurrences
        are read.
    preprocessing
        What it is shown.
    description
        For the manifest.
    report
        As ``import_classifier`` takes it.

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    UsageError
        If the architecture is unknown, a side is no multiple of `STRIDE`, or as ``import_classifier`` does.
    WeightsError, MissingPackageError
        As ``read_lite_weights`` does, which raises UsageError, too.
    ModelError, ManifestError
        As ``import_classifier`` does.
    """
    if isinstance(architecture, str):
        architecture = find_architecture(architecture, LITE_ARCHITECTURES)
    height, width = preprocessing.size or (architecture.size, architecture.size)
    for side in (height, width):
        if side < 1 or side % STRIDE:
            lower = max(side // STRIDE, 1) * STRIDE
            raise UsageError(
                f"{architecture.name} takes multiples of {STRIDE} pixels, but {side} is not one: choose {lower}, or "
                f"{lower + STRIDE}."
            )
    check_normalisation(preprocessing.mean or (), preprocessing.std or ())
    check_vacant(out_dir)
    model = build_efficientnet_lite(architecture, read_lite_weights(weights, architecture))
    readout = _usual_readout(architecture, readout)
    with TemporaryDirectory(prefix="pc-engine-") as folder:
        path = Path(folder) / f"{architecture.name}.onnx"
        if not readout.two_scales:  # else it has to take both sizes
            for axis, side in ((2, height), (3, width)):
                model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
        onnx.save(model, path)
        return import_classifier(
            path,
            out_dir,
            name=architecture.name,
            pixels=NetworkInput(
                "", height, width, layout="NCHW", mean=preprocessing.mean or _MEAN, std=preprocessing.std or _STD
            ),
            readout=readout,
            description=replace(description, source=description.source or source_name(weights)),
            report=report,
        )


def _usual_readout(spec: LiteSpec, chosen: Readout) -> Readout:
    """Return what is read where no more than is ``chosen`` is said."""
    if chosen.count_features is None:
        cooccurrences = chosen.cooccurrences or _COOCCURRENCES
        chosen = replace(chosen, count_features=_COUNT_FEATURES, cooccurrences=cooccurrences)
    return replace(chosen, taps=usual_taps(spec) | dict(chosen.taps), heat=chosen.heat or _HEAT)


def usual_taps(spec: LiteSpec) -> dict[str, str]:
    """Return the tensors of an EfficientNet-Lite that the modes read, by the names of their taps.

    ``conv_last`` and ``project`` are the last block's expanded and projected maps, ``conv_prev`` and ``middle`` those
    of twice as many cells a side before them: what the first coarse block expands, and what it is given.
    """
    return {
        "conv_prev": f"block_{spec.first_coarse}_expand",
        "conv_last": f"block_{spec.last}_expand",
        "project": f"block_{spec.last}_project",
        "middle": f"block_{spec.first_coarse - 1}_add",
        "pooled": "pooled",
        "logits": "logits",
    }
