"""An ONNX classifier as a model: its intermediate tensors become taps, its preprocessing part of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnx.inliner import inline_local_functions

from pc_engine.backbone import IMAGE
from pc_engine.errors import ManifestError, ModelError, PcEngineError, UsageError, first_line, system_reason
from pc_engine.export.class_names import names_of_logits
from pc_engine.export.classifier_input import complete_input, say_range
from pc_engine.export.cooccurrence import Cooccurrence, append_cooccurrence
from pc_engine.export.evidence import BACKWARD_SETTINGS, append_evidence
from pc_engine.export.external_data import embed_external_data
from pc_engine.export.finer_maps import FINER_MAPS, find_finer_maps, usual_cooccurrences
from pc_engine.export.fixed_batch import free_batch
from pc_engine.export.full_precision import make_float32
from pc_engine.export.grey_input import take_colours
from pc_engine.export.head_graph import PASSING, RESHAPING
from pc_engine.export.limits import say_limits
from pc_engine.export.map_layout import with_channels_first
from pc_engine.export.model_directory import write_model_directory
from pc_engine.export.run_shapes import known_shapes, quiet_session
from pc_engine.export.settings import DEFAULT_DESCRIPTION, DEFAULT_READOUT, Description, Readout, check_normalisation
from pc_engine.export.strided_copies import drop_strided_copies
from pc_engine.export.tap_names import GRID_TAPS, find_taps, maps_before, unnamed_tap
from pc_engine.export.token_maps import tokens_as_maps
from pc_engine.export.two_scales import add_larger_view, check_larger_view
from pc_engine.files.out_folder import check_vacant
from pc_engine.files.regular_file import check_regular
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.names import fresh_name, names_of, rename
from pc_engine.graph.prepare import BATCH, cut_graph, parse_graph
from pc_engine.manifest import (
    BACKGROUND_SETTING,
    EVIDENCE,
    MAPS_OF_HEAD,
    Manifest,
    NetworkInput,
    Tap,
)
from pc_engine.modes.salience import CLASS_HEAT_SETTING, SALIENT_SETTING
from pc_engine.say import Say

# Sums in another order differ by less, as a share of a tap's largest value; other images by more.
_OWN = 1e-3
# What ends a classifier that gives probabilities: of one class, or of each class by itself.
_PROBABILITIES = ("Softmax", "Sigmoid")


def import_classifier(
    onnx_path: Path,
    out_dir: Path,
    *,
    name: str,
    pixels: NetworkInput,
    readout: Readout = DEFAULT_READOUT,
    description: Description = DEFAULT_DESCRIPTION,
    range_is_meant: bool = False,
    report: Say = lambda _: None,
) -> Manifest:
    """Make a model directory from an ONNX classifier.

    The written network takes uint8 [N, H, W, 3] RGB and has all taps as outputs, whatever the given one took and gave.
    Where its head allows, it gives the tap ``evidence`` as well, see `pc_engine.export.evidence`, and ``conv_top``
    where the maps that this speaks of are not ``conv_last``.

    Parameters
    ----------
    onnx_path
        An ONNX network; tensors may lie in files beside it. Of its inputs the taps may depend on one, the image.
    out_dir
        The directory to make; it may exist only if it is empty.
    name
        Name of the model.
    pixels
        How the given network takes pixels. An empty ``tensor`` stands for the only input that the taps depend on, a
        ``height`` and ``width`` of 0 for what the network declares, else 224, and an empty ``layout`` for that of its
        three channels, else NCHW; ``dtype`` is read from the network.
    readout
        What is read of it.
    description
        For the manifest.
    range_is_meant
        Whether somebody said that pixels are to have this mean and deviation, even 0 and 1: then no doubt is reported.
    report
        Called with a sentence for each thing that was chosen or left out, such as why there is no ``evidence``.

    Returns
    -------
    Manifest
        As written, with the taps' shapes as one run of the network gave them.

    Raises
    ------
    UsageError
        If ``out_dir`` is not empty or cannot be made, the file cannot be read, a tap or its tensor is missing, the
        pixels would be divided by 0, are meant to be of 0..1 or go in as bytes and are to be changed, no tap is of the
        larger view that is wanted, ``heat`` or a co-occurrence names no maps, ``heat`` or ``count_features`` names a
        tap twice, there is no logit ``background_class``, or ``classes`` are not as many as the logits.
    ManifestError
        If a tap or the input is of the wrong form.
    ModelError
        If the network cannot be read, run or made to take a batch, or the disk is full.
    """
    taps, background_class = readout.taps, readout.background_class
    count_features, cooccurrences, heat = readout.count_features, readout.cooccurrences, readout.heat
    check_vacant(out_dir)
    check_normalisation(pixels.mean, pixels.std)
    _check_readable(onnx_path)
    with _damage_said(onnx_path):
        model = _read(onnx_path, report)
        take_colours(model, pixels, report)
        if readout.two_scales:
            logits = find_taps(model, onnx_path, {tap: taps[tap] for tap in taps if tap == "logits"}, ())
            pixels = add_larger_view(model, complete_input(model, logits, pixels))
        tensors = find_taps(model, onnx_path, taps, count_features or ())
        if readout.two_scales:
            check_larger_view(tensors.values())
        pixels = complete_input(model, tensors, pixels)
        if not range_is_meant:
            say_range(pixels, report)
        model = _prepared(model, name, pixels, tensors, report)
        tokens_as_maps(model, (*GRID_TAPS, *heat, *(wanted.tap for wanted in cooccurrences)), pixels, report)
        pixels = NetworkInput(IMAGE, pixels.height, pixels.width, mean=pixels.mean, std=pixels.std)
        model, settings = _with_evidence(model, name, pixels, tensors, background_class, report)
        if background_class >= 0:
            settings = {**settings, BACKGROUND_SETTING: background_class}
        if count_features is None:
            count_features = () if cooccurrences else ("conv_last",)
            if not cooccurrences:
                model, cooccurrences = _with_finer_maps(model, name, pixels, report)
                if not heat and (heat := _heat_beside(cooccurrences, model)):
                    naming = " --heat ".join(("", *heat)).strip()
                    report(f"What {' and '.join(heat)} show is pointed at, and clustered by p2c: {naming}.")
        if heat:
            settings = {**settings, **dict.fromkeys((SALIENT_SETTING, CLASS_HEAT_SETTING), " ".join(heat))}
        known = known_shapes(model, pixels) if cooccurrences else {}
        for wanted in cooccurrences:
            append_cooccurrence(model, wanted, known)
        given = {tap: Tap(tap, shape) for tap, shape in _shapes(model, name, pixels).items()}
        _check_taps(given, background_class)
        _check_heat(given, heat)
        say_limits(model, given, pixels, report)
        classes = names_of_logits(description.classes, given["logits"].shape[0], background_class, report)
        manifest = Manifest(
            name=name,
            input=pixels,
            taps=given,
            count_features=(*count_features, *(wanted.name for wanted in cooccurrences)),
            classes=classes,
            licence=description.licence,
            source=description.source or onnx_path.name,
            settings=settings,
        )
        for value in model.graph.output:
            declared: list[str | int | None] = [BATCH, *given[value.name].shape]
            value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, declared))
        return write_model_directory(model, manifest, out_dir)


def _prepared(
    model: onnx.ModelProto,
    name: str,
    pixels: NetworkInput,
    tensors: Mapping[str, str],
    report: Say,
) -> onnx.ModelProto:
    """Return the network from uint8 pixels to its taps, called by their names, as the modes read them.

    Maps have their channels first then, and logits are one value a class, before any softmax or sigmoid.
    """
    logits = _before_probabilities(model, tensors["logits"])
    if logits != tensors["logits"]:
        report(f"The tap 'logits' names probabilities: what they are computed from is used instead ('{logits}').")
        tensors = {**tensors, "logits": logits}
    tensors = with_channels_first(model, tensors, report)
    free_batch(model, tensors.values(), pixels)
    model = cut_graph(model, name, pixels, tensors)
    _flatten_logits(model)
    return model


def _check_taps(taps: Mapping[str, Tap], background_class: int) -> None:
    """Raise ManifestError where a tap has another form than its name says; UsageError if there is no such logit."""
    for tap in GRID_TAPS:
        if tap in taps and not taps[tap].is_maps:
            raise ManifestError(f"The tap '{tap}' has shape {taps[tap].shape}, expected channels, height, width.")
    logits = taps["logits"].shape
    if len(logits) != 1:
        raise ManifestError(f"The tap 'logits' has shape {logits}, expected one value per class.")
    if not -1 <= background_class < logits[0]:
        raise UsageError(
            f"The background class is {background_class}, but the logits have {logits[0]} values, numbered from 0: "
            f"choose one of these with --background-class, or leave it out."
        )


def _check_heat(taps: Mapping[str, Tap], heat: Sequence[str]) -> None:
    """Raise UsageError where what is to be pointed at is no tap of maps, or named twice: its heat would be squared."""
    maps = [name for name, tap in taps.items() if tap.is_maps]
    names = " ".join(heat).split()
    if repeated := [name for place, name in enumerate(names) if name in names[:place]]:
        raise UsageError(f"--heat names '{repeated[0]}' twice: name it once.")
    if missing := [name for name in names if name not in maps]:
        raise UsageError(
            f"The network has no maps called {' or '.join(missing)} for --heat: choose among {', '.join(maps)}, or "
            f"name others with --tap."
        )


def _before_probabilities(model: onnx.ModelProto, tensor: str) -> str:
    """Return what ``tensor`` is the softmax or the sigmoid of, else the tensor: the modes take a softmax by themselves.

    Of probabilities it would be about the same for all classes, whatever the network sees.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(tensor)
    while node is not None and node.op_type in (*PASSING, *RESHAPING):
        node = producers.get(node.input[0])
    return tensor if node is None or node.op_type not in _PROBABILITIES else str(node.input[0])


def _flatten_logits(model: onnx.ModelProto) -> None:
    """Make logits that are maps of one cell, as a convolution or a pooling at the end gives them, one value a class."""
    shape = graph_shapes.infer(model).get("logits", graph_shapes.UNKNOWN).shape or ()
    sizes = shape[1:]
    if len(sizes) < 2 or sum(size != 1 for size in sizes) > 1:
        return
    by_cell = fresh_name("logits_by_cell", set(names_of(model.graph)))
    rename(model.graph, {"logits": by_cell})
    model.graph.node.append(helper.make_node("Flatten", [by_cell], ["logits"], axis=1))
    output = next(value for value in model.graph.output if value.name == by_cell)
    output.CopyFrom(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))


@contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    """Turn whatever onnx, NumPy and protobuf raise about a damaged network into a sentence."""
    try:
        yield
    except (PcEngineError, OSError):
        raise
    except Exception as error:
        raise ModelError(f"{path} is damaged ({first_line(error)}); export or copy it again.") from None


def _read(path: Path, report: Say) -> onnx.ModelProto:
    """Return the network without functions of its own, which not every backend knows, and in float32."""
    model = parse_graph(path)
    embed_external_data(model, path)
    if model.functions:
        model = inline_local_functions(model)
    if make_float32(model):
        report("The network is stored in another precision: it is kept in float32, which all precisions are made from.")
    return model


def _check_readable(path: Path) -> None:
    try:
        check_regular(path)
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({system_reason(error)}): name an ONNX network with --weights."
        ) from None


def _with_evidence(
    model: onnx.ModelProto,
    name: str,
    pixels: NetworkInput,
    taps: Mapping[str, str],
    background_class: int,
    report: Say,
) -> tuple[onnx.ModelProto, Mapping[str, float | str]]:
    """Return the network, its ``taps`` called by their names, with the evidence if it can be had; and its settings.

    Where ``conv_last`` is not among the taps, it is the maps that the evidence speaks of. ``taps`` has the name that
    each has in the file.
    """
    if EVIDENCE in taps:
        if "conv_last" not in taps:
            raise unnamed_tap(model, "conv_last", pixels)
        return model, {}
    known = known_shapes(model, pixels)
    drop_strided_copies(model, pixels, known)
    n_nodes = len(model.graph.node)
    try:
        found = append_evidence(model, background_class, known)
        if MAPS_OF_HEAD in taps and found.maps != MAPS_OF_HEAD:
            raise ModelError(f"its head reads the maps '{found.maps}', and the tap '{MAPS_OF_HEAD}' names others")
    except ModelError as error:
        report(f"The network gives no evidence for its classes, so modes p2c and combined need signatures: {error}.")
        if "conv_last" not in taps:
            raise unnamed_tap(model, "conv_last", pixels) from None
        return model, {}
    tensors = {tap: tap for tap in taps} | {EVIDENCE: found.tensor}
    if "conv_last" not in taps:
        chosen = {"conv_last": found.maps}
        before = maps_before(model, found.maps, known)
        if before is not None and "conv_prev" not in taps:
            chosen["conv_prev"] = before
        # Maps whose channels come last were turned for the evidence: a tap that is named so is as well.
        in_file = {**taps, **{node.output[0]: node.input[0] for node in model.graph.node[n_nodes:]}}
        naming = (f"--tap {tap}={in_file.get(tensor, tensor)}" for tap, tensor in chosen.items())
        report(f"Taps that were not named: {', '.join(naming)}.")
        tensors |= chosen
    elif found.maps != "conv_last":
        tensors[MAPS_OF_HEAD] = found.maps
    settings = {} if found.is_linear else BACKWARD_SETTINGS
    return cut_graph(model, name, pixels, tensors), settings


def _with_finer_maps(
    model: onnx.ModelProto, name: str, pixels: NetworkInput, report: Say
) -> tuple[onnx.ModelProto, Sequence[Cooccurrence]]:
    """Return the network with finer maps as one more tap, and what the counter reads of them, if it has any."""
    known = known_shapes(model, pixels)
    finer = find_finer_maps(model, pixels, "conv_last", known)
    if finer is None:
        return model, ()
    taps = {output.name: output.name for output in model.graph.output}
    tap = finer if finer in taps else fresh_name(FINER_MAPS, set(taps))
    height, width = (int(size or 0) for size in (known[finer].shape or ())[2:])
    wanted = usual_cooccurrences(tap, height, width)
    report(
        "The counter reads conv_last, and which maps of a finer layer are active together: --count-feature "
        f"conv_last{'' if finer in taps else f' --tap {tap}={finer}'} "
        f"{' '.join(f'--cooccurrence {each.tap}@{each.distance}' for each in wanted)}."
    )
    return cut_graph(model, name, pixels, {**taps, tap: finer}), wanted


def _heat_beside(finer: Sequence[Cooccurrence], model: onnx.ModelProto) -> tuple[str, ...]:
    """Return whose heat is pointed at beside the co-occurrences of finer maps; none where there is no layer between."""
    taps = {output.name for output in model.graph.output}
    # A tensor that two taps name has the one as a copy of the other.
    copies = [{*node.input, *node.output} for node in model.graph.node if node.op_type == "Identity"]
    between = finer and "conv_prev" in taps and {"conv_prev", finer[0].tap} not in [{"conv_prev"}, *copies]
    return ("conv_prev", finer[0].tap) if between else ()


def _shapes(model: onnx.ModelProto, name: str, pixels: NetworkInput) -> dict[str, tuple[int, ...]]:
    """Run two different images, find each tap to be the image's own, and return its shape without the batch axis."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, pixels.height, pixels.width, 3), np.uint8)
    try:
        session = quiet_session(model)
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {IMAGE: images}), strict=True))
        alike = [dict(zip(names, session.run(names, {IMAGE: images[[k, k]]}), strict=True)) for k in range(2)]
    except Exception as error:  # onnxruntime's exceptions share no base but this
        raise ModelError(
            f"The network of '{name}' cannot run on a batch of two {pixels.height}x{pixels.width} images "
            f"({first_line(error)})."
        ) from None
    for tap, values in outputs.items():
        if values.ndim < 2 or values.shape[0] != 2:
            raise ModelError(
                f"The tap '{tap}' of '{name}' has shape {values.shape} for a batch of two images, expected 2 first; "
                f"export the network with a dynamic batch axis."
            )
        # As where a size that was fixed for a batch of one gives all images what the first one shows.
        own = np.stack([alike[k][tap][k] for k in range(2)])
        if np.abs(own - values).max() > _OWN * max(float(np.abs(own).max()), 1e-30):
            raise ModelError(
                f"The tap '{tap}' of '{name}' depends on the other images of a batch: export the network to infer, "
                f"with a dynamic batch axis."
            )
    return {tap: values.shape[1:] for tap, values in outputs.items()}
