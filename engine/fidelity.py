"""How far a network's classes, counts and taps at another precision are from those at fp32, measured on photos."""

from __future__ import annotations

import numpy as np

from pc_engine.backbone import Backbone, Taps
from pc_engine.backends import BACKENDS, REFERENCE
from pc_engine.manifest import EVIDENCE, Fidelity
from pc_engine.model import Model
from pc_engine.modes import MODES, settings_for
from pc_engine.networks import network_request
from pc_engine.progress import Advance
from pc_engine.say import Say
from pc_engine.selection.selection import select

#: The precisions that the reference backend imitates: it rounds as a GPU does, whether there is one or not.
IMITATED = ("fp16", "fp8")


def compare_with_fp32(
    model: Model,
    precision: str,
    images: np.ndarray,
    *,
    backend: str = "auto",
    report: Say = lambda _: None,
    advance: Advance = lambda _: None,
) -> Fidelity:
    """Run a model's network at ``precision`` and, on the reference backend, at fp32; return how they compare.

    Parameters
    ----------
    model
        The model; the count agreement is measured for every mode that it can run.
    precision
        ``"bf16"``, ``"int8"``, or one of `IMITATED`, which the reference backend computes as a GPU does.
    images
        uint8 (n, H, W, 3) of the network's size, none of which it was quantised with.
    backend
        A name, or ``"auto"`` for the fastest at that precision; not read for those of `IMITATED`.
    report, advance
        Called with sentences for the user, and with the number of images done.

    Raises
    ------
    BackendError
        If that precision does not run here.
    ModelError
        If the model has no network for it.
    """
    request = network_request(model, tuple(model.manifest.taps))
    name = REFERENCE if precision in IMITATED else select(request, backend, precision, report=report).backend
    reference = BACKENDS[REFERENCE].compile(request)
    try:
        candidate = BACKENDS[name].compile(request.at(precision))
        try:
            return measure_fidelity(model, reference, candidate, images, advance)
        finally:
            candidate.close()
    finally:
        reference.close()


def measure_fidelity(
    model: Model, reference: Backbone, candidate: Backbone, images: np.ndarray, advance: Advance = lambda _: None
) -> Fidelity:
    """Return how ``candidate`` compares with ``reference`` on ``images``; both keep all taps of ``model``.

    Values of the candidate that are not finite count as 0. Evidence speaks of the class that the network sees, so it is
    compared on the images where that is the same; how many others there are is the agreement in class.
    """
    modes = [mode for mode in MODES.values() if not model.missing_parts(mode)]
    settings = settings_for(model.manifest)
    squares = dict.fromkeys(reference.request.taps, 0.0)
    deviations = dict(squares)
    same = dict.fromkeys(("top1", *(mode.name for mode in modes)), 0)
    size = reference.request.batch_size
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        expected: Taps = reference.infer(batch)
        found: Taps = {
            name: np.nan_to_num(tap, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            for name, tap in candidate.infer(batch).items()
        }
        same_class = found["logits"].argmax(axis=1) == expected["logits"].argmax(axis=1)
        for name, tap in expected.items():
            compared = same_class if name == EVIDENCE else slice(None)
            squares[name] += _sum_of_squares(tap[compared])
            deviations[name] += _sum_of_squares((found[name] - tap)[compared])
        same["top1"] += int(same_class.sum())
        for mode in modes:
            counts = [mode.evaluate(taps, model.parts, settings).count for taps in (found, expected)]
            same[mode.name] += int((counts[0] == counts[1]).sum())
        advance(len(batch))
    share = {name: value / len(images) for name, value in same.items()}
    return Fidelity(
        backend=candidate.backend,
        n=len(images),
        top1=share.pop("top1"),
        counts=share,
        tap_errors={name: _ratio(deviations[name], squares[name]) for name in squares},
        files=model.manifest.precision_files(candidate.request.precision),
    )


def _sum_of_squares(values: np.ndarray) -> float:
    return float(np.dot(values.ravel(), values.ravel()))


def _ratio(deviation: float, square: float) -> float:
    return float(np.sqrt(deviation / square if square > 0 else deviation))
