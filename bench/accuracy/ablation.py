"""What each setting of the modes is worth: its default beside alternatives, on the same labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

from pc_engine.bench.accuracy.contenders import Contender, Share, judge
from pc_engine.bench.accuracy.cross_validation import FoldFit
from pc_engine.bench.accuracy.evaluation import accuracy_gain_of, count_accuracy_of, model_and_modes
from pc_engine.bench.accuracy.mixture_count import SAMPLE_SIZES, MixtureCount
from pc_engine.bench.accuracy.pointing import pointing_accuracy
from pc_engine.bench.accuracy.settings import EvaluationSettings
from pc_engine.bench.accuracy.truth import Truth, counted_images, judged_labels
from pc_engine.bench.environment import describe_environment
from pc_engine.datasets import LabelledSet
from pc_engine.errors import ManifestError, UsageError
from pc_engine.fitted.cluster_likelihood import PEAK_LIMITS
from pc_engine.fitted.counter import count_label
from pc_engine.fitting.counter import CounterFit
from pc_engine.fitting.features import map_widths
from pc_engine.model import Model
from pc_engine.modes import MODES, Mode, settings_for
from pc_engine.modes.salience import CLASS_HEAT_SETTING, SALIENT_SETTING, map_taps
from pc_engine.progress import Progress
from pc_engine.result import Result
from pc_engine.say import Say

#: What is tried beside the default where nothing else is asked for, by the mode that it concerns.
ALTERNATIVES: Mapping[str, Mapping[str, tuple[float | str, ...]]] = {
    "c2p": {"c2p.mean_factor": (0.0, 0.5, 1.5, 2.0), "c2p.min_deviation": (0.2, 0.5, 0.7)},
    "p2c": {
        "p2c.top_last": (5, 10, 40, 80),
        "p2c.top_prev": (0, 10, 25, 100),
        "p2c.mean_factor": (0.0, 1.0, 3.0),
        "p2c.cutoff": (0.7, 1.4, 2.0),
        "p2c.min_density": (0.1, 0.2, 0.35, 0.65, 0.8),
        "p2c.min_distance": (2.0, 3.0, 5.0, 6.0),
        "p2c.prominence": (0.02, 0.05, 0.1, 0.2),
        "p2c.softness": (0.02, 0.05, 0.1),
        "p2c.trim": (0.0, 0.3, 0.7, 0.9),
        "p2c.pointer": ("box",),
        "p2c.cluster": ("dbscan",),
    },
    "combined": {
        "combined.heat": ("p2c",),
        "combined.pointer": ("mixture", "box"),
        "combined.clusters": ("round", "peaks"),
        "combined.class_power": (0.0, 1.0),
        "combined.salient_power": (1.0, 2.0),
        "combined.cutoff": (0.4, 1.0, 1.5),
        "combined.parting_power": (0.4, 1.0),
        "combined.valley_power": (0, 1, 6),
        "combined.reach": (3.0, 8.0, 1000.0),
    },
}

_CLUSTER = "p2c.cluster"
# Of how the counter is fitted, which folds do anew; what is tried in the place of "on" and of all features.
_COUPLING, _CLUSTERS, _FEATURES = "counter.coupling", "counter.clusters", "counter.features"
_MIRRORED, _BEYOND, _AIM, _NORMALISE = "counter.mirrored", "counter.beyond", "counter.aim", "counter.normalise"
_ON, _OFF = "on", "off"
# How many objects an image under the open-ended label shows: as the mode itself says, or by the BIC of mixtures.
_OPEN_LABEL, _ITS_OWN = "counter.open_label", "its own"
# A counter that weighs clusters in knows what a cluster is: its mode reads these settings without such a one only.
_PEAKS = tuple(f"p2c.{name}" for name in PEAK_LIMITS)
_POINTING = ("pointing", "pointing_interval", "iou", "mean_pointer_area")
_SHOWN = ("count_accuracy", "count_accuracy_interval", "mean_absolute_error")


class Trial(NamedTuple):
    """A contender, and which setting it has another value of; None for the model's own settings."""

    setting: str | None
    value: float | str | None
    contender: Contender


def ablate(
    data: str,
    labelled: LabelledSet,
    settings: EvaluationSettings,
    alternatives: Mapping[str, Sequence[float | str]] | None = None,
    *,
    report: Say = lambda _: None,
    progress: Progress = lambda _stage, _done, _total: None,
) -> dict[str, Any]:
    """Judge each mode with its settings, and with each alternative in the place of one of them.

    Parameters
    ----------
    data
        Name of the data, for the report.
    labelled
        The images; those without a count take no part.
    settings
        What to evaluate, and how to run it.
    alternatives
        Values by the names of settings, each tried in the modes that read it; None for `ALTERNATIVES`, for the heat of
        other maps of the model and of each two, for what the modes would take where it has a setting of its own, and
        with folds for other ways to fit the counter: with each feature alone, or the first few; for the other aim;
        without mirror images, normalisation, the coupling of scores, clusters, or a number beyond the last label. And
        for the BIC of mixtures in the place of that number (`pc_engine.bench.accuracy.mixture_count`).
    report, progress
        As of `pc_engine.bench.accuracy.evaluation.evaluate`.

    Returns
    -------
    dict
        JSON-ready. ``"labels"`` are the count labels that all is judged by. ``"modes"`` has by mode a list of trials,
        the first that of the model's own settings: ``"setting"`` and ``"value"`` (both None there), ``"default"``, the
        figures of `evaluate`, ``"mean_absolute_error_open"``, the mean error of the count in images whose true one
        falls under an open-ended label (None without any), ``"counts_changed"``, in how many images its count is not
        that of the first, ``"labels_changed"``, in how many its label is not, which alone is judged by accuracy, and
        ``"gain"`` over the first. With known counts, a trial of the counter is the first again, unless boxes are
        pointed with: those are of what the counter takes for clusters.
        ``"failures"`` are images that could not be read.

    Raises
    ------
    PcEngineError
        If nothing can be evaluated, or an alternative is none.

    Notes
    -----
    One setting differs at a time: a best value found here is best beside the others as they are. The network runs once
    for all trials, and counters of ``folds`` are fitted once, beside the model's own settings. Where a counter weighs
    clusters in, what a cluster is was fitted with it, and its mode has no trial of ``p2c.cutoff``,
    ``p2c.min_density``, ``p2c.min_distance`` or ``p2c.prominence``. Without the coupling of scores clusters have
    another weight, which suits decision values.
    """
    images = counted_images(data, labelled)
    model, modes = model_and_modes(settings, report)
    for setting in alternatives or ():
        _check_read(setting, modes, model)
    usual = FoldFit(beside=CounterFit(settings.aim))
    truth_labels = judged_labels(settings, model)
    trials = {mode.name: _trials(mode, model, alternatives, usual) for mode in modes}
    if settings.folds is not None and alternatives is None:
        for mode in modes:
            trials[mode.name] += _counter_trials(mode, model, usual)
    if alternatives is None:
        for mode in modes:
            trials[mode.name] += _recounts(mode, truth_labels, usual)
    contenders = {
        f"{name} {number}": trial.contender for name, tried in trials.items() for number, trial in enumerate(tried)
    }
    truth = Truth(images, truth_labels, settings.seed)
    judged = judge(truth, model, contenders, settings, report, progress)
    rows, told = judged.rows, judged.told
    unread = {mode.name: _settled_by_counters(mode, trials[mode.name], judged.shares) for mode in modes}
    for name, settled in unread.items():
        if settled:
            report(
                f"Mode {name} was not tried with another {' or '.join(settled)}: its counter weighs clusters in, and "
                f"says what they are."
            )
    defaults = _defaults(model) | {_AIM: settings.aim}
    failures = {row.path: row.error for of_one in rows.values() for row in of_one if not row.ok}
    return {
        "data": data,
        "model": model.name,
        **judged.how,
        "by_run": labelled.by_run,
        "images": len(images),
        "labels": list(truth.labels),
        "modes": {
            name: [
                {
                    "setting": setting,
                    "value": value,
                    "default": None if setting is None else defaults[setting],
                    **_shown(truth, rows[f"{name} {number}"], rows[f"{name} 0"]),
                    "known_count": _shown_of_told(truth, told.get(f"{name} {number}")),
                }
                for number, (setting, value, _) in enumerate(tried)
                if setting not in unread[name]
            ]
            for name, tried in trials.items()
        },
        "failures": [list(item) for item in failures.items()],
        "machine": describe_environment("scikit-learn", "scipy"),
    }


def _check_read(setting: str, modes: Sequence[Mode], model: Model) -> None:
    """Raise UsageError unless it is a setting that one of these modes reads."""
    defaults = [name for name in _defaults(model) if not name.startswith("counter.")]
    if setting not in defaults:
        raise UsageError(f"There is no setting '{setting}': choose one of {', '.join(defaults)}.")
    if not any(mode.reads(setting) for mode in modes):
        names = " or ".join(mode.name for mode in modes)
        others = " or ".join(mode.name for mode in MODES.values() if mode.reads(setting))
        raise UsageError(f"Mode {names} does not read the setting '{setting}': omit it, or use --mode {others}.")


def _trials(
    mode: Mode, model: Model, alternatives: Mapping[str, Sequence[float | str]] | None, counter: FoldFit
) -> list[Trial]:
    """Return the trials of a mode, that of the model's own settings first.

    Counters that folds fit are fitted as ``counter`` says.
    """
    defaults = _defaults(model)
    usual = _defaults(replace(model, manifest=replace(model.manifest, settings={})))
    tried: list[Trial] = [Trial(None, None, Contender(mode, counter=counter))]
    for setting, values in (_alternatives(mode, model) if alternatives is None else alternatives).items():
        if not mode.reads(setting):
            continue
        # A model may have its own settings, beside which those that it would have without are another way, too.
        own = alternatives is None and defaults[setting] != usual[setting]
        for value in dict.fromkeys((usual[setting], *values) if own else values):
            if value == defaults[setting]:
                continue
            if setting == _CLUSTER:
                trial = Trial(setting, value, Contender(mode, cluster=str(value), counter=counter))
            else:
                trial = Trial(setting, value, Contender(mode, changes={setting: value}, counter=counter))
                try:
                    _check(trial, model)  # an impossible value is said before anything runs
                except UsageError:
                    if alternatives is None:  # one that does not go with what the model sets
                        continue
                    raise
            tried.append(trial)
    return tried


def _check(trial: Trial, model: Model) -> None:
    """Raise UsageError unless ``model`` can run a trial of another value of a setting."""
    setting, value, contender = trial
    try:
        changed = contender.of(model)
        settings_for(changed.manifest)
        contender.mode.taps(changed.manifest)
    except ManifestError:
        # The model's own manifest was read without one, and does not set this value.
        if setting in (SALIENT_SETTING, CLASS_HEAT_SETTING):
            named, advice = "maps", f"choose among {', '.join(map_taps(model.manifest))}"
        else:
            named, advice = "tap", "leave that value out"
        raise UsageError(
            f"The model '{model.name}' does not have the {named} of {setting}={value}: {advice}."
        ) from None
    # That it has what the mode needs otherwise is known.
    if set(changed.missing_parts(contender.mode)) - set(model.missing_parts(contender.mode)):
        raise UsageError(
            f"The model '{model.name}' does not have the signatures of {setting}={value}: make them with 'pc-engine "
            f"fit-signatures DATA --model {model.argument}', or leave that value out."
        )


def _alternatives(mode: Mode, model: Model) -> Mapping[str, Sequence[float | str]]:
    """Return `ALTERNATIVES` of a mode that the model reads, and the heat of each of its maps and of each two others."""
    setting, no_heat = (SALIENT_SETTING, ()) if "counter" in mode.needs else (CLASS_HEAT_SETTING, ("",))
    own = {*str(_defaults(model)[setting]).split()}  # which may be in another order
    maps = map_taps(model.manifest)
    heats = [heat for heat in (*maps, *map(" ".join, combinations(maps, 2))) if {*heat.split()} != own]
    settings = settings_for(model.manifest).p2c
    unread = {
        "p2c.softness": not settings.heat,
        "p2c.min_distance": settings.prominence > 0,
    }
    read = {name: values for name, values in ALTERNATIVES.get(mode.name, {}).items() if not unread.get(name)}
    return {**read, setting: (*no_heat, *heats)}


def _settled_by_counters(mode: Mode, trials: Sequence[Trial], shares: Sequence[Share]) -> list[str]:
    """Return the settings among the trials of a mode that it takes from a counter, so that none was tried."""
    counters = (
        (setting, share.models[contender.counter].parts.counter)
        for setting, _, contender in trials
        if mode.weighs_clusters and setting in _PEAKS
        for share in shares
    )
    return list(dict.fromkeys(setting for setting, counter in counters if counter and counter.clusters))


def _counter_trials(mode: Mode, model: Model, usual: FoldFit) -> list[Trial]:
    """Return the trials of other ways than the ``usual`` one to fit the counter that ``mode`` reads."""
    if "counter" not in mode.needs:
        return []
    beside = usual.beside
    fits: list[tuple[str, str, FoldFit]] = [
        (_COUPLING, _OFF, replace(usual, beside=replace(beside, coupling=False))),
        (_AIM, beside.aim.other, replace(usual, beside=replace(beside, aim=beside.aim.other))),
    ]
    if map_widths(model.manifest):
        fits.append((_MIRRORED, _OFF, replace(usual, mirrored=False)))
    fits.append((_NORMALISE, _OFF, replace(usual, normalised=False)))
    if "signatures" in mode.needs:
        fits.append((_CLUSTERS, _OFF, replace(usual, beside=replace(beside, clusters=False))))
        fits.append((_BEYOND, _OFF, replace(usual, beside=replace(beside, beyond=False))))
    features = model.manifest.count_features
    if len(features) > 1:
        # Each alone, and the first few together, so that one sees what each adds to those before it.
        subsets = [(name,) for name in features] + [features[:k] for k in range(2, len(features))]
        fits += [(_FEATURES, " ".join(subset), replace(usual, features=subset)) for subset in subsets]
    return [Trial(setting, value, Contender(mode, counter=fit)) for setting, value, fit in fits]


def _recounts(mode: Mode, labels: Sequence[str], usual: FoldFit) -> list[Trial]:
    """Return the trials of other counts under an open-ended label than that of ``mode``, which reads a counter."""
    if "counter" not in mode.needs or not labels[-1].endswith("+"):
        return []
    recounts = {f"BIC, {sample}": MixtureCount(sample) for sample in SAMPLE_SIZES}
    return [Trial(_OPEN_LABEL, value, Contender(mode, counter=usual, recount=each)) for value, each in recounts.items()]


def _defaults(model: Model) -> dict[str, float | str]:
    """Return all settings of a model by their names, but for the aim of its counters."""
    settings = settings_for(model.manifest)
    fitted = dict.fromkeys((_COUPLING, _MIRRORED, _NORMALISE, _CLUSTERS, _BEYOND), _ON)
    counter = {**fitted, _OPEN_LABEL: _ITS_OWN, _FEATURES: " ".join(model.manifest.count_features)}
    return counter | {
        f"{mode}.{name}": value for mode, own in vars(settings).items() for name, value in vars(own).items()
    }


def _shown(truth: Truth, rows: Sequence[Result], default_rows: Sequence[Result]) -> dict[str, Any]:
    found = {**count_accuracy_of(truth, rows).to_dict(), **pointing_accuracy(truth, rows).to_dict()}
    labels, default_labels = (
        [None if row.count is None else count_label(row.count, truth.labels) for row in each]
        for each in (rows, default_rows)
    )
    return {
        **{name: found[name] for name in _SHOWN},
        "mean_absolute_error_open": _error_under_open_label(truth, rows),
        **{name: found[name] for name in _POINTING},
        "counts_changed": sum(row.count != other.count for row, other in zip(rows, default_rows, strict=True)),
        "labels_changed": sum(label != other for label, other in zip(labels, default_labels, strict=True)),
        "gain": accuracy_gain_of(truth, rows, default_rows),
    }


def _error_under_open_label(truth: Truth, rows: Sequence[Result]) -> float | None:
    *_, last = truth.labels
    errors = [
        abs(row.count - image.count)
        for image, row in zip(truth.images, rows, strict=True)
        if image.count is not None and row.count is not None and count_label(image.count, truth.labels) == last
    ]
    return sum(errors) / len(errors) if errors and last.endswith("+") else None


def _shown_of_told(truth: Truth, rows: Sequence[Result] | None) -> dict[str, Any] | None:
    if rows is None:
        return None
    found = pointing_accuracy(truth, rows).to_dict()
    return {name: found[name] for name in _POINTING}
