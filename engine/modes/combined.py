"""Count and point in one pass: the paper's open question (4.3), which of the two goes first, answered with both.

The SVM scores the labels, and the number of clusters of the class's heatmap is weighed in, unless the images that the
SVM was fitted on speak against it. Where the answer is "4+", which is no number, the counter says how many, if it has
learnt to (see `pc_engine.fitted.open_count`), else the clustering counts on; the label's lower end is the least.
Pointers are then drawn where both look, on the cells that are salient, as c2p sees it, and speak for the class, by the
network's own evidence where it gives any, else as p2c sees it: an ellipse around each of as many clusters of their heat
as were counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.errors import UsageError
from pc_engine.fitted.counter import CountSVM, is_open, label_counts
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.hardware.device_arrays import constant
from pc_engine.kernels import cluster_moments, density_peaks, merge_clusters, scale_to_peak
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import EVIDENCE, HEAT_SETTING, Manifest
from pc_engine.modes.c2p import C2PSettings, c2p_taps, fitted_mixtures, mixture_pointers
from pc_engine.modes.classify import predict_class
from pc_engine.modes.grid import USUAL_GRID, grid_side
from pc_engine.modes.known_count import KnownCount, as_counts, require_counter
from pc_engine.modes.limits import LENGTH, POWER, check_choice, check_limits
from pc_engine.modes.outcome import Outcome, ellipse_pointers, mark_bad, pointer_room, split_bad_heat
from pc_engine.modes.p2c import (
    box_pointers,
    class_heatmap,
    clustered_heatmap,
    evidence_heatmap,
    heat_clusters,
    weighing_heatmap,
)
from pc_engine.modes.p2c_manifest import p2c_taps
from pc_engine.modes.p2c_settings import P2CSettings
from pc_engine.modes.salience import raised_heatmap, salient_heatmap, shared_heatmap

PointerKind = Literal["ellipse", "mixture", "box"]
POINTER_KINDS: tuple[PointerKind, ...] = ("ellipse", "mixture", "box")
PointingHeat = Literal["evidence", "p2c"]
_HEATS: tuple[PointingHeat, ...] = ("evidence", "p2c")
# What p2c clusters is flatter than the product that ellipses are drawn on: the root of three heatmaps, or the class's
# alone, whose peaks need no flattening. It is raised to so many times the power (``bench/results/ablation-lego.json``).
_FLATTER = 3.0
PointedClusters = Literal["merged", "round", "peaks"]
_CLUSTERS: tuple[PointedClusters, ...] = ("merged", "round", "peaks")


@dataclass(frozen=True)
class CombinedSettings:
    """How the count is pointed at.

    Attributes
    ----------
    heat
        Which heat of the class pointers are drawn on: that of the network's ``"evidence"``, or of ``"p2c"``'s
        signatures. On photos both lie on the objects about as often, on collages of large objects the maps of a
        dictionary somewhat more (``bench/results/ablation-photos.json``); the evidence needs none. Boxes are drawn
        around parts of what p2c clusters in any case.
    pointer
        ``"ellipse"``: the product of two heatmaps, c2p's and the class's, is divided into as many clusters as were
        counted, and each has an ellipse of the spread of its heat: half axes are the roots of its variances, to each of
        which the square of c2p's ``min_deviation`` is added. ``"mixture"``: as many Gaussians, fitted to that product
        as in c2p, where that square is the least variance; they may settle between two objects. ``"box"``: what p2c
        clusters is divided in that way, and each cluster has a box around all of its object, as of p2c's setting
        ``pointer="box"``. Ellipses lie on the objects, boxes cover them (``bench/results/boxes.json``).
    clusters
        Which clusters ellipses are drawn around. ``"merged"``: all density peaks, of which the two that part least are
        made one, or one that is light and far is left out, until as many are left as were counted
        (`pc_engine.kernels.merge_clusters`); objects of one image are taken to have one shape, such as that of bottles.
        ``"round"``: the same, but they are taken for round. ``"peaks"``: those that stand out most, by their density
        and their distance to a denser one, which takes two parts of a large object for two before a pair of neighbours
        (``bench/results/ablation-photos.json``).
    class_power, salient_power
        The heat of the class and that of all that is salient are raised to these before they are multiplied. What is
        salient tells where objects are, and above 1 parts neighbours; the class tells which of them are meant, on a
        grid that often is coarser, and is not always right (``bench/results/ablation-photos.json``).
    cutoff
        Of those density peaks, in cells of a 14 x 14 grid; on others it is as large a part of the grid.
    parting_power
        The product is raised to this, above 0, before it is divided into clusters; their ellipses are those of the
        product itself. Below 1 an object that shows weakly beside others is not merged before parts of these are.
    valley_power
        How much a valley of heat between two clusters keeps them from being merged; 0 for not at all.
    reach
        In cells of a 14 x 14 grid. What is light, and about so far from all that is heavy or farther, is left out and
        not merged with any: it is something else. In the shape that all share it is nearer across, and farther along.
    """

    heat: PointingHeat = "p2c"
    pointer: PointerKind = "ellipse"
    clusters: PointedClusters = "merged"
    class_power: float = 0.5
    salient_power: float = 1.5
    cutoff: float = 0.7
    parting_power: float = 0.6
    valley_power: int = 3
    reach: float = 5.0

    def __post_init__(self) -> None:
        check_limits(
            self,
            "combined",
            {
                "class_power": POWER,
                "salient_power": POWER,
                "cutoff": LENGTH,
                "parting_power": (0.01, POWER[1]),
                "valley_power": (0, 10),
                "reach": LENGTH,
            },
        )
        check_choice("heat", self.heat, _HEATS, " to point at")
        check_choice("pointer", self.pointer, POINTER_KINDS, " for mode combined")
        check_choice("choice of clusters", self.clusters, _CLUSTERS, " to point at")


def combined_taps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps that `combined` reads."""
    pointed_at = (manifest.evidence_maps, EVIDENCE) if pointing_heat(manifest) == EVIDENCE else ()
    return tuple(dict.fromkeys((*c2p_taps(manifest), *p2c_taps(manifest), *pointed_at)))


def pointing_heat(manifest: Manifest) -> str:
    """Return on which heat of the class this model points: what its manifest sets, else evidence where it gives any."""
    return str(manifest.settings.get(HEAT_SETTING, EVIDENCE if EVIDENCE in manifest.taps else "p2c"))


def combined(
    taps: Taps,
    counter: CountSVM | None,
    signatures: SignatureDictionary | None,
    p2c_settings: P2CSettings,
    settings: CombinedSettings | None = None,
    c2p_settings: C2PSettings | None = None,
    known_count: KnownCount | None = None,
) -> Outcome:
    """Count with the SVM and the clustering, and point with as many ellipses or boxes.

    Parameters
    ----------
    taps
        All that `pc_engine.modes.c2p.c2p` and `pc_engine.modes.p2c.p2c` read, and the network's evidence if that is
        pointed at.
    counter, signatures
        The count SVM, which is not read where counts are known, and the signature dictionary, which is not read with
        the setting ``signature="evidence"``.
    p2c_settings
        Those of the heatmap and its clustering, which has to be density peaks. Where the counter weighs clusters in,
        their ``cutoff``, ``min_density``, ``min_distance`` and ``prominence`` are those that it was fitted with
        instead.
    settings
        With what to point; None for the defaults.
    c2p_settings
        Those of what is salient and of the Gaussians; None for the defaults.
    known_count
        How many objects to point at, where that is known; None to count them.

    Returns
    -------
    Outcome
        Ellipses or boxes as ``settings`` say; the count scores are those of both witnesses, and none where counts are
        known. Fewer ellipses than the count where the heatmap has fewer cells, fewer boxes where it has fewer peaks.

    Raises
    ------
    ModelError
        If there is neither a counter nor a known count.
    UsageError
        If ``p2c_settings`` name a clustering that cannot be asked for a number of clusters.
    """
    settings, c2p_settings = settings or CombinedSettings(), c2p_settings or C2PSettings()
    if p2c_settings.cluster != "density-peaks":
        raise UsageError(
            "Mode combined asks for a number of clusters, which only density-peaks can give: omit --cluster."
        )
    xp = get_array_module(taps["logits"])
    seen = seen_classes(taps, signatures, p2c_settings)
    counted = _count(taps, counter, seen, p2c_settings, known_count)
    count = counted.count
    # No more are pointed at than there are cells, whatever the counter says.
    if settings.pointer == "box":
        cells, most = pointer_room(seen.clustered, counted.largest)
        power = _FLATTER * settings.parting_power
        parts = _divided(seen.clustered, xp.minimum(count, cells), power, settings, c2p_settings)
        fitted = mark_bad(parts.bad, -1, parts.n_clusters)
        pointers = box_pointers(parts.labels, parts.heat, parts.n_clusters, p2c_settings, most)
    else:
        shared = pointed_heatmap(taps, seen, settings, p2c_settings, c2p_settings)
        cells, most = pointer_room(shared, counted.largest)
        pointed_at = xp.minimum(count, cells)
        if settings.pointer == "mixture":
            fitted, pointers = mixture_pointers(shared, pointed_at, c2p_settings, most)
        else:
            fitted, pointers = _cluster_ellipses(shared, pointed_at, settings, c2p_settings, most)
    return Outcome(
        count=xp.where(fitted < 0, -1, count),
        kind="box" if settings.pointer == "box" else "ellipse",
        pointers=pointers,
        count_scores=counted.scores,
        class_id=seen.class_id,
        class_score=seen.class_score,
    )


@dataclass(frozen=True)
class _Counted:
    """How many objects N images show, and how that was found.

    ``largest`` is the largest count that there can be, or None where only the counts themselves say it; ``scores``
    (N, L) are None where counts are known.
    """

    count: Array
    largest: int | None
    scores: Array | None = None


def _count(
    taps: Taps, counter: CountSVM | None, seen: SeenClasses, p2c_settings: P2CSettings, known_count: KnownCount | None
) -> _Counted:
    """Count by both witnesses, unless counts are known; see `combined`."""
    if known_count is not None:
        return _Counted(*as_counts(known_count, seen.clustered))
    counter = require_counter(counter)
    xp = get_array_module(seen.clustered)
    witness = counter.clusters
    if witness is not None:
        p2c_settings = replace(p2c_settings, **vars(witness.peaks))
    clusters = heat_clusters(seen.clustered, p2c_settings)
    found = xp.where(seen.nothing, 0, clusters.count)
    scores, beyond = counter.scores_and_counts(taps)
    if witness is not None:
        scores = witness.added_to(scores, found)
    label = scores.argmax(axis=1)
    counts = tuple(map(int, label_counts(counter.labels)))
    floor = constant(xp, counts, np.int64)[label]
    open_labels = constant(xp, tuple(map(is_open, counter.labels)), bool)
    number = found if beyond is None else beyond
    counts_on = open_labels[label] & (number > floor)
    # A device would have to be waited for to learn the largest count; there the clustering has a slot for any, and so
    # have all that the counter can say, or others.
    beyond_labels = 0 if counter.beyond is None else counter.beyond.most
    largest = max(counts[-1], beyond_labels, clusters.slots or 0)
    return _Counted(xp.where(counts_on, number, floor), largest, scores)


@dataclass(frozen=True)
class SeenClasses:
    """What N images show of their classes.

    Attributes
    ----------
    class_id, class_score
        (N,) int64 and float32: the most probable class that is not the background's, and its softmax probability.
    nothing
        (N,) bool: whether the background was more probable.
    heat, clustered
        (N, H, W): the class's heatmap, and what p2c clusters.
    salient
        (N, H, W): that of all that is salient, where the class's is weighed with it; None where not.
    """

    class_id: Array
    class_score: Array
    nothing: Array
    heat: Array
    clustered: Array
    salient: Array | None


def seen_classes(taps: Taps, signatures: SignatureDictionary | None, p2c_settings: P2CSettings) -> SeenClasses:
    """Return what a batch shows of its classes; see `combined` for what is read."""
    # The class only says where to look, so "no object" is an answer to how many, not to what.
    class_id, class_score = predict_class(taps["logits"], without=p2c_settings.background_class)
    of_all = class_id if p2c_settings.background_class < 0 else taps["logits"].argmax(axis=1)
    nothing = of_all == p2c_settings.background_class
    heat = class_heatmap(taps, signatures, class_id, p2c_settings)
    salient = weighing_heatmap(taps, p2c_settings)
    clustered = clustered_heatmap(heat, salient, p2c_settings)
    return SeenClasses(class_id, class_score, nothing, heat, clustered, salient)


def pointed_heatmap(
    taps: Taps, seen: SeenClasses, settings: CombinedSettings, p2c_settings: P2CSettings, c2p_settings: C2PSettings
) -> Array:
    """Return the heat (N, H, W) that ellipses are drawn on; see `combined`."""
    class_heat = seen.heat
    if settings.heat == EVIDENCE != p2c_settings.signature:
        class_heat = evidence_heatmap(taps)
    salient = seen.salient
    if salient is None or p2c_settings.salience != c2p_settings.salience:
        salient = salient_heatmap(taps, c2p_settings.salience)
    return shared_heatmap(class_heat, salient, powers=(settings.class_power, settings.salient_power))


@dataclass(frozen=True)
class _Parts:
    """Heatmaps (N, H, W), scaled to their peaks, and what they were divided into; ``bad`` is as of `split_bad_heat`."""

    heat: Array
    labels: Array
    n_clusters: Array
    bad: Array | None


def _divided(heat: Array, count: Array, power: float, settings: CombinedSettings, c2p_settings: C2PSettings) -> _Parts:
    """Divide heatmaps (N, H, W) to a power into ``count`` clusters (N,), or as many as they have peaks."""
    sound, bad = split_bad_heat(heat)
    sound = scale_to_peak(sound)
    scale = grid_side(*sound.shape[1:]) / USUAL_GRID
    raised = raised_heatmap(sound, power)
    if settings.clusters == "peaks":
        peaks = density_peaks(raised, cutoff=settings.cutoff * scale, n_centres=count)
        return _Parts(sound, peaks.labels, peaks.n_clusters, bad)
    peaks = density_peaks(raised, cutoff=settings.cutoff * scale, min_density=0, min_distance=0)
    merged = merge_clusters(
        peaks.labels,
        raised,
        peaks.n_clusters,
        count,
        valley_power=settings.valley_power,
        variance_floor=None if settings.clusters == "round" else c2p_settings.min_deviation**2,
        reach=settings.reach * scale,
        slots=peaks.centres.shape[1],
    )
    return _Parts(sound, merged.labels, merged.n_clusters, bad)


def _cluster_ellipses(
    heat: Array, count: Array, settings: CombinedSettings, c2p_settings: C2PSettings, most: int | None
) -> tuple[Array, Array]:
    """Return what `mixture_pointers` returns, by moments of ``count`` clusters of each heatmap (N, H, W), H W at most.

    A heatmap with fewer peaks, such as a plateau, is left to the mixture, which finds room for any number.
    """
    xp = get_array_module(heat)
    parts = _divided(heat, count, settings.parting_power, settings, c2p_settings)
    moments = cluster_moments(parts.labels, parts.heat, parts.n_clusters, slots=most)
    ellipses = (moments.means, moments.variances + c2p_settings.min_deviation**2, moments.share)
    short = parts.n_clusters < count
    if xp is not np or short.any():
        fitted, mixtures = fitted_mixtures(heat, xp.where(short, count, 0), c2p_settings, most)
        count = xp.where(short, fitted, count)
        others = (mixtures.means, mixtures.variances, mixtures.mixing)
        ellipses = tuple(_of_either(short, *pair) for pair in zip(others, ellipses, strict=True))
    return mark_bad(parts.bad, -1, count), ellipse_pointers(*ellipses, parts.heat.shape[1:])


def _of_either(first: Array, ones: Array, others: Array) -> Array:
    """Return values (N, K, …) of clusters: ``ones`` for the images that ``first`` (N,) says, else ``others``."""
    xp = get_array_module(first)
    room = max(ones.shape[1], others.shape[1])
    ones, others = (_with_slots(each, room) for each in (ones, others))
    return xp.where(first.reshape(-1, *[1] * (ones.ndim - 1)), ones, others)


def _with_slots(values: Array, slots: int) -> Array:
    """Return values (N, K, …) of clusters with so many slots, NaN where there is none."""
    xp = get_array_module(values)
    missing = slots - values.shape[1]
    unused = [(0, 0), (0, missing), *[(0, 0)] * (values.ndim - 2)]
    return xp.pad(values, unused, constant_values=xp.nan) if missing else values
