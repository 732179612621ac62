"""``pc-engine build``: measure the backends on a model and keep it compiled; quantise it, or judge a precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from pc_engine.backends import REFERENCE
from pc_engine.calibration import DEFAULT_LIMIT, MIN_IMAGES, CalibrationImages, read_calibration_images
from pc_engine.catalogue import find_model
from pc_engine.cli import options
from pc_engine.cli.console import print_json, print_line, print_table, progress, remark
from pc_engine.cli.target import target_of
from pc_engine.errors import UsageError
from pc_engine.fidelity import IMITATED, compare_with_fp32
from pc_engine.files.out_folder import folder_error
from pc_engine.hardware.machine import usable_cores
from pc_engine.manifest import QUANTISED_FILES, Fidelity, Manifest
from pc_engine.model import Model, load_model, write_model
from pc_engine.modes import MODES, Mode, find_mode
from pc_engine.networks import network_request
from pc_engine.selection.device_choice import choose_device
from pc_engine.selection.execution import AUTO, Execution
from pc_engine.selection.selection import Selection, open_backbone, refusal, require_precision, select

# What photos are given for where no precision is named.
_QUANTISES = "int8"
_CALIBRATED = (*QUANTISED_FILES, "bf16", "fp16")


def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or directory.")],
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="Build for this mode only; if omitted, for all that the model can run.",
            callback=options.any_case,
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="SOURCE",
            help="With --precision int8 (the one it goes with if none is named) or fp8: photos like yours, a folder or "
            "anything else that run takes, to quantise with and to compare with fp32 on. With bf16 or fp16: to compare "
            "on only. fp16 and fp8 are computed on the CPU as a GPU would.",
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            help=f"Photos to take from --calibrate; if omitted, {DEFAULT_LIMIT}. int8 and fp8 keep half of them to "
            "compare on.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        options.out("With --calibrate: write a copy of the model here; if omitted, change the model itself."),
    ] = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    as_json: options.AsJson = False,
) -> None:
    """Compile a model for this machine and keep it: measure every backend, check it against the reference.

    With --calibrate, quantise it first (int8, fp8), and measure on photos how far its classes and counts are from fp32.
    """
    if calibrate is not None and precision == AUTO:
        precision = _QUANTISES
    place = choose_device(Execution(backend, precision, device), remark(as_json))
    asked = [find_mode(mode)] if mode else None
    imitated = calibrate is not None and precision in IMITATED
    if calibrate is None:
        _refuse_without_photos(images, out)
    else:
        _check_calibration(precision, backend, place, images)
    loaded = find_model(model, remark(as_json))
    modes = asked or _modes(loaded)
    if calibrate is not None:
        loaded, target = target_of(loaded, out)
        pixels = loaded.manifest.input
        photos = read_calibration_images(
            [calibrate],
            pixels.height,
            pixels.width,
            limit=DEFAULT_LIMIT if images is None else images,
            workers=workers or usable_cores(),
            compare_only=precision not in QUANTISED_FILES,
        )
        if not imitated:
            require_precision(precision, backend)
        loaded = _calibrate(loaded, target, precision, photos, backend, quiet=as_json)
        if not as_json:
            _print_fidelity(loaded, precision, photos, asked)
    # A model with nothing fitted yet can still be measured; c2p reads the fewest outputs.
    built = []
    modes = modes or [MODES["c2p"]]
    if imitated and place == "cpu":
        remark(as_json)(f"No network was compiled: {precision} is for a GPU, which computes the same, much faster.")
        modes = []
    for item in modes:
        request = network_request(loaded, item.taps(loaded.manifest), batch_size=batch_size, device=place)
        chosen = select(request, backend, precision, mode=item.name, report=remark(as_json), fresh=True)
        open_backbone(request, chosen.backend, chosen.precision, remark(as_json)).close()
        missing = loaded.missing_parts(item)
        about = {"mode": item.name, "batch_size": request.batch_size, "missing": list(missing)}
        built.append({**about, **asdict(chosen)})
        if not as_json:
            _print_selection(f"{loaded.name}, {item.name}", chosen, request.batch_size)
            lacks = [loaded.lack_of(part, item) for part in missing]
            print_line(" ".join((f"{item.name}: {chosen.backend} at {chosen.precision} is ready.", *lacks)))
    if as_json:
        fidelity = {name: _fidelity_json(loaded.manifest, name) for name in loaded.manifest.fidelity}
        print_json({"model": loaded.name, "directory": str(loaded.directory), "fidelity": fidelity, "modes": built})


def _refuse_without_photos(images: int | None, out: Path | None) -> None:
    """Raise UsageError where an option is given that is about the photos of --calibrate."""
    if images is not None:
        raise UsageError("--images goes with --calibrate: without it no photos are looked at.")
    if out is not None:
        raise UsageError("--out goes with --calibrate: compiled networks are kept in the cache, not in the model.")


def _check_calibration(precision: str, backend: str, place: str, images: int | None) -> None:
    """Raise UsageError, or PrecisionError, where a precision cannot be compared so, before minutes are spent on it."""
    if precision not in _CALIBRATED:
        raise UsageError(f"--calibrate goes with --precision {', '.join(_CALIBRATED)}; got '{precision}'.")
    if precision in IMITATED and place == "cpu" and backend not in ("auto", REFERENCE):
        raise UsageError(
            f"At {precision} {REFERENCE} compares, computing as a GPU does: omit --backend, got '{backend}'."
        )
    if precision in IMITATED and place != "cpu":
        require_precision(precision, backend, place)
    if images is not None and images < MIN_IMAGES:
        raise UsageError(f"--images is {images}, expected at least {MIN_IMAGES}.")


def _modes(model: Model) -> list[Mode]:
    return [mode for mode in MODES.values() if not model.missing_parts(mode)]


def _calibrate(
    model: Model, target: Path, precision: str, photos: CalibrationImages, backend: str, *, quiet: bool
) -> Model:
    """Quantise the model where ``precision`` asks for it, compare with fp32, and write both into ``target``."""
    try:
        write_model(model, target, model.manifest)
        model = load_model(target)
        if precision in QUANTISED_FILES:
            model = _quantise(model, precision, photos, quiet=quiet)
        with progress("comparing", quiet=quiet, total=len(photos.held_out)) as tracker:
            fidelity = compare_with_fp32(
                model, precision, photos.held_out, backend=backend, report=remark(quiet), advance=tracker.advance
            )
        measured = {**model.manifest.fidelity, precision: fidelity}
        write_model(model, target, replace(model.manifest, fidelity=measured))
    except OSError as error:
        raise folder_error(target, error, "choose another with --out") from None
    return load_model(target)


def _quantise(model: Model, precision: str, photos: CalibrationImages, *, quiet: bool) -> Model:
    from pc_engine.export.quantise import calibration_steps, quantise_network

    remark(quiet)(f"Quantising {model.name} with {len(photos.used)} photos ...")
    with (
        progress("quantising", quiet=quiet, total=calibration_steps(len(photos.used))) as tracker,
        TemporaryDirectory(dir=model.directory) as scratch,
    ):
        network = Path(scratch) / QUANTISED_FILES[precision]
        quantised = quantise_network(
            model.network, model.manifest, photos.used, network, precision=precision, advance=tracker.advance
        )
        manifest = replace(model.manifest, quantised={**model.manifest.quantised, precision: quantised})
        write_model(model, model.directory, manifest, {network.name: network.replace})
    return load_model(model.directory)


def _print_fidelity(model: Model, precision: str, photos: CalibrationImages, asked: Sequence[Mode] | None) -> None:
    """Print what a precision costs, and what comes of it for the modes that are ``asked`` for; None for all."""
    report = model.manifest.fidelity[precision]
    rows = [("same class first", f"{report.top1:.1%}")]
    rows += [(f"same count, {mode}", f"{share:.1%}") for mode, share in report.counts.items()]
    rows += [(f"difference of {tap}", f"{error:.2%}") for tap, error in report.tap_errors.items()]
    print_table(
        f"{model.name}: {report.backend} at {precision} against fp32 on {report.n} photos",
        ("what", f">{precision}"),
        rows,
    )
    if photos.unreadable:
        print_line(f"{photos.unreadable} of the photos could not be read.")
    for mode in [mode.name for mode in asked or ()] or report.counts or ("classes",):
        reason = refusal(model.manifest, precision, mode)
        verdict = f"{precision} {reason}" if reason else f"--precision auto takes {precision} where it is the fastest"
        print_line(f"{mode}: {verdict}.")


def _fidelity_json(manifest: Manifest, precision: str) -> dict[str, Any]:
    report: Fidelity = manifest.fidelity[precision]
    return {
        "backend": report.backend,
        "n": report.n,
        "top1": report.top1,
        "counts": dict(report.counts),
        "tap_errors": dict(report.tap_errors),
        "agreement": report.agreement(),
        "holds": manifest.fidelity_now(precision) is not None,
        "refused": refusal(manifest, precision),
    }


def _print_selection(title: str, chosen: Selection, batch_size: int) -> None:
    rows: Sequence[tuple[str, ...]] = [
        (
            f"{c.backend} {c.precision}",
            "-" if c.images_per_second is None else f"{c.images_per_second:.1f}",
            "-" if c.difference is None else f"{c.difference:.1e}",
            c.reason or ("chosen" if (c.backend, c.precision) == (chosen.backend, chosen.precision) else ""),
        )
        for c in chosen.candidates
    ]
    if rows:
        columns = ("backend", ">images/s", ">difference", "verdict")
        print_table(f"{title}: network alone, batches of {batch_size}", columns, rows)
