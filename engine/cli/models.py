"""``pc-engine models`` lists the models; ``pc-engine export`` makes one of weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.catalogue import USUAL_TAPS, list_models
from pc_engine.cli import options
from pc_engine.cli.console import print_answer, print_json, print_line, print_table, remark
from pc_engine.datasets.imagenet import imagenet_class_names
from pc_engine.errors import UsageError
from pc_engine.files.storage import model_argument, models_complaint
from pc_engine.manifest import EVIDENCE, Manifest, NetworkInput
from pc_engine.manifest_file import LARGEST_INPUT


def models(as_json: options.AsJson = False) -> None:
    """List the models that are installed or can be fetched."""
    entries, complaint = list_models(), models_complaint()
    if complaint:
        remark(quiet=False)(complaint)
    if as_json:
        listed = [
            {**asdict(entry), "directory": None if entry.directory is None else str(entry.directory)}
            for entry in entries
        ]
        print_json({"models": listed})
        return
    rows = [(entry.name, entry.state, entry.licence, entry.source, _named(entry.taps)) for entry in entries]
    print_table(None, ("=model", "state", "licence", "source", "taps"), rows)
    print_line("A model is fetched or made when it is first used: pc-engine run FOLDER --model NAME.")


def _named(taps: Sequence[str]) -> str:
    """Return the taps that most networks have; all of a network's own would be a screenful."""
    named = [tap for tap in taps if tap in USUAL_TAPS]
    more = len(taps) - len(named)
    return ", ".join([*named, *([f"{more} more"] if more else [])])


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="vgg16, efficientnet_lite2, ..., or a name for your own ONNX network."),
    ],
    weights: Annotated[
        str,
        typer.Option("--weights", help="A .safetensors, .pth, .h5, .keras or .onnx file; random:SEED for benchmarks."),
    ],
    out: Annotated[Path, options.out("The model directory to make.")],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="A text or JSON file with one class name per logit, or imagenet, to which --background-class adds a "
            "name where the network has one.",
        ),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights, for the record.")] = "unknown",
    tap: Annotated[
        list[str] | None,
        typer.Option(
            "--tap",
            help="Not for VGG, repeatable: NAME=TENSOR_OR_NODE keeps that output under NAME; conv_last with conv_prev, "
            "and logits, are found where they are not named.",
        ),
    ] = None,
    count_feature: Annotated[
        list[str] | None,
        typer.Option(
            "--count-feature",
            help="Not for VGG, repeatable: a tap that the count SVM reads; if omitted, what suits EfficientNet-Lite, "
            "or for an ONNX network, unless --cooccurrence is given, conv_last and co-occurrences of finer maps.",
        ),
    ] = None,
    cooccurrence: Annotated[
        list[str] | None,
        typer.Option(
            "--cooccurrence",
            help="Repeatable, TAP@CELLS: the count SVM also reads which maps of a tap are active that many cells "
            "apart.",
        ),
    ] = None,
    heat: Annotated[
        list[str] | None,
        typer.Option(
            "--heat",
            help="Not for VGG, repeatable: a tap of maps whose heat is pointed at, and clustered by p2c; several are "
            "multiplied; if omitted, what suits the network.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="Side of the input in pixels, or HEIGHTxWIDTH; if omitted, what the network was trained for or "
            "declares, else 224. A larger input shows small objects in finer maps.",
        ),
    ] = None,
    two_scales: Annotated[
        bool,
        typer.Option(
            "--two-scales",
            help="Not for VGG: the network also sees the picture at twice --size, for finer heat; its tensors there "
            "are called larger/NAME, as in --tap fine=larger/NAME --heat fine.",
        ),
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout", help="ONNX only: NCHW or NHWC; if omitted, told by where the input has its three channels."
        ),
    ] = None,
    channels: Annotated[str, typer.Option("--channels", help="ONNX only: RGB or BGR.")] = "RGB",
    background_class: Annotated[
        int, typer.Option("--background-class", help='ONNX only: the logit that means "no object"; -1 for none.')
    ] = -1,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            help="Subtracted from pixels of 0..255: one number, or three with commas, for R, G, B even if --channels "
            "is BGR. PyTorch's 0.485,0.456,0.406 are 123.675,116.28,103.53. If omitted, 0; for VGG and "
            "EfficientNet-Lite, what they were trained with.",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            "--std",
            help="What they are then divided by: one number, or three in the same order. PyTorch's 0.229,0.224,0.225 "
            "are 58.395,57.12,57.375; 255 makes pixels of 0..1. If omitted, 1; for VGG and EfficientNet-Lite, what "
            "they were trained with.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a model directory from weights: VGG or EfficientNet-Lite from their tensors, or your own ONNX classifier."""
    from pc_engine.export import (
        ARCHITECTURES,
        LITE_ARCHITECTURES,
        Cooccurrence,
        Description,
        Preprocessing,
        Readout,
        export_efficientnet_lite,
        export_vgg,
        import_classifier,
        read_class_names,
    )

    say = remark(quiet=False) if as_json else print_line
    cooccurrences = [Cooccurrence(*_tap_and_distance(text)) for text in cooccurrence or ()]
    height_and_width = None if size is None else _height_and_width(size)
    names: tuple[str, ...] = ()
    if classes is not None:
        names = imagenet_class_names() if classes == "imagenet" else read_class_names(Path(classes))
    description = Description(names, licence)
    of_maps = {
        "--tap": bool(tap),
        "--count-feature": bool(count_feature),
        "--heat": bool(heat),
        "--two-scales": two_scales,
    }
    of_onnx = {
        "--layout": layout is not None,
        "--channels": channels.upper() != "RGB",
        "--background-class": background_class != -1,
    }
    is_onnx = Path(weights).suffix.lower() == ".onnx"
    # What a network does not take at all is said first, not how it would have to be written.
    if model in LITE_ARCHITECTURES and not is_onnx:
        _refuse(of_onnx, "EfficientNet-Lite")
    elif model in ARCHITECTURES and not is_onnx:
        _refuse(of_maps | of_onnx, "VGG")
    elif not is_onnx:
        raise UsageError(
            f"--weights {weights} is not an .onnx file, and there is no architecture '{model}' to give weights to: "
            f"choose one of {', '.join((*ARCHITECTURES, *LITE_ARCHITECTURES))}, or give an .onnx file."
        )
    readout = Readout(_taps(tap or []), count_feature or None, cooccurrences, heat or (), background_class, two_scales)
    preprocessing = Preprocessing(_triple("--mean", mean), _triple("--std", std), height_and_width)
    if is_onnx:
        layout = "" if layout is None else _one_of("--layout", layout, ("NCHW", "NHWC"))
        channels = _one_of("--channels", channels, ("RGB", "BGR"))
        pixels = NetworkInput(
            "",
            *(preprocessing.size or (0, 0)),
            layout=layout,
            channels=channels,
            mean=preprocessing.mean or (0.0, 0.0, 0.0),
            std=preprocessing.std or (1.0, 1.0, 1.0),
        )
        manifest = import_classifier(
            Path(weights),
            out,
            name=model,
            pixels=pixels,
            readout=readout,
            description=description,
            range_is_meant=mean is not None and std is not None,
            report=say,
        )
    elif model in LITE_ARCHITECTURES:
        manifest = export_efficientnet_lite(
            model,
            weights,
            out,
            readout=readout,
            preprocessing=preprocessing,
            description=description,
            report=say,
        )
    else:
        manifest = export_vgg(
            model,
            weights,
            out,
            cooccurrences=cooccurrences,
            preprocessing=preprocessing,
            description=description,
        )
    print_answer(_exported(manifest, out), lambda _: _print_exported(manifest, out), quiet=False, as_json=as_json)


def _refuse(options_given: Mapping[str, bool], network: str) -> None:
    """Raise UsageError where an option is given that is known of a network, or cannot be had of it."""
    if given := [option for option, is_given in options_given.items() if is_given]:
        raise UsageError(
            f"{network} does not take {' and '.join(given)}: leave {'it' if len(given) == 1 else 'them'} out."
        )


def _exported(manifest: Manifest, out: Path) -> dict[str, Any]:
    return {
        "model": manifest.name,
        "directory": str(out),
        "input": asdict(manifest.input),
        "taps": {name: asdict(tap) for name, tap in manifest.taps.items()},
        "count_features": list(manifest.count_features),
        "settings": dict(manifest.settings),
        "licence": manifest.licence,
        "source": manifest.source,
        "network_sha256": manifest.network_sha256,
    }


def _print_exported(manifest: Manifest, out: Path) -> None:
    rows = [(name, tap.tensor, " x ".join(map(str, tap.shape))) for name, tap in manifest.taps.items()]
    size = f"{manifest.input.height} x {manifest.input.width} pixels"
    print_table(f"{manifest.name} in {out}, for {size}", ("tap", "tensor", "shape"), rows)
    name = model_argument(out)
    if EVIDENCE in manifest.taps:
        print_line(f"Mode p2c runs as it is. Next: pc-engine fit-counter DATA --model {name} (modes c2p, combined).")
        return
    print_line(
        f"Next: pc-engine fit-counter DATA --model {name} (modes c2p, combined), "
        f"pc-engine fit-signatures DATA --model {name} (modes p2c, combined)."
    )


def _taps(pairs: Iterable[str]) -> dict[str, str]:
    taps: dict[str, str] = {}
    for pair in pairs:
        name, separator, tensor = pair.partition("=")
        if not (name and separator and tensor):
            raise UsageError(f"--tap {pair} does not name a tensor: write it as conv_last=TENSOR.")
        if name in taps:
            raise UsageError(f"--tap names '{name}' twice, as {taps[name]} and as {tensor}: name it once.")
        taps[name] = tensor
    return taps


def _tap_and_distance(text: str) -> tuple[str, int]:
    tap, separator, cells = text.rpartition("@")
    if not (tap and separator and cells.isascii() and cells.isdigit()):
        raise UsageError(f"--cooccurrence {text} is not a tap and a distance in cells: write it as conv_last@0.")
    return tap, int(cells)


def _height_and_width(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text.strip().lower())
    height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (0 < height <= LARGEST_INPUT and 0 < width <= LARGEST_INPUT):
        raise UsageError(
            f"--size {text} is neither a side nor HEIGHTxWIDTH, in pixels up to {LARGEST_INPUT:,}: write it as 224 or "
            f"192x256."
        )
    return height, width


def _triple(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
        red, green, blue = values * 3 if len(values) == 1 else values
    except ValueError:
        raise UsageError(f"{option} {text} is neither one number nor three with commas.") from None
    return red, green, blue


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value.upper() not in allowed:
        raise UsageError(f"{option} {value}: choose one of {', '.join(allowed)}.")
    return value.upper()
