"""Point, then count (paper 3.2, 4): the class's signature selects maps, and density clustering finds the objects.

The signature is looked up in a dictionary that was fitted, or is the network's own evidence for the class that it saw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.errors import ModelError, UsageError
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.hardware.device_arrays import constant
from pc_engine.kernels import (
    ClusterBoxes,
    cluster_boxes,
    dbscan,
    density_peaks,
    selected_heatmap,
    weighted_heatmap,
)
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import EVIDENCE, MAPS_OF_HEAD
from pc_engine.modes.classify import predict_class, predict_classes
from pc_engine.modes.cuml_clustering import cuml_dbscan
from pc_engine.modes.known_count import KnownCount, as_counts
from pc_engine.modes.outcome import Outcome, by_score, mark_bad, split_bad_heat
from pc_engine.modes.p2c_settings import P2CSettings
from pc_engine.modes.salience import salient_heatmap, shared_heatmap


def p2c(
    taps: Taps,
    signatures: SignatureDictionary | None,
    settings: P2CSettings,
    known_count: KnownCount | None = None,
) -> Outcome:
    """Classify each image of a batch, cluster its class's heatmap, and point with one box per cluster.

    Parameters
    ----------
    taps
        ``logits`` (N, classes), ``conv_last`` (N, C, H, W), and ``conv_prev`` where the signatures rank it; with the
        setting ``signature="evidence"``, ``evidence`` (N, C) and the maps that it speaks of; and the maps of ``heat``.
    signatures
        The signature dictionary; not read with that setting.
    known_count
        How many objects to point at, where that is known; None to count them. Takes density peaks and one class an
        image (see `can_point_at_known_counts`).

    Returns
    -------
    Outcome
        Kind ``"box"``; the score is the cluster's share of the heat, which density peaks have smoothed before (their
        density), and of the heat itself with DBSCAN. With several classes the count is that of all, and the pointers
        are those of one class after the other, the most probable first. Fewer boxes than a known count where the
        heatmap has fewer peaks.

    Raises
    ------
    UsageError
        If counts are known and the settings are none that can be told them.
    """
    if known_count is not None and not can_point_at_known_counts(settings):
        raise UsageError("Only density peaks of one class can be asked for a number of clusters: set both, or count.")
    if settings.classes > 1:
        return _several_classes(taps, signatures, settings)
    # Where objects are known to be, the background is no answer to what they are.
    without = -1 if known_count is None else settings.background_class
    class_id, class_score = predict_class(taps["logits"], without)
    xp = get_array_module(class_id)
    class_heat = class_heatmap(taps, signatures, class_id, settings)
    heat = clustered_heatmap(class_heat, weighing_heatmap(taps, settings), settings)
    if settings.background_class >= 0:
        heat = xp.where((class_id == settings.background_class)[:, None, None], 0, heat)
    known = None if known_count is None else as_counts(known_count, heat)[0]
    found, pointers = cluster_pointers(heat, settings, known)
    count = found if known is None else xp.where(found < 0, -1, known)
    return Outcome(count=count, kind="box", pointers=pointers, class_id=class_id, class_score=class_score)


def can_point_at_known_counts(settings: P2CSettings) -> bool:
    """Whether `p2c` with these settings can be told how many objects there are."""
    return settings.cluster == "density-peaks" and settings.classes == 1


def _several_classes(taps: Taps, signatures: SignatureDictionary | None, settings: P2CSettings) -> Outcome:
    """Point and count class by class, the most probable first (paper 3.2, the extended scenario)."""
    class_ids, class_scores = predict_classes(taps["logits"], min(settings.classes, taps["logits"].shape[1]))
    xp = get_array_module(class_ids)
    # A network that sees nothing sees nothing of any class.
    takes_part = (class_scores >= settings.class_share * class_scores[:, :1]) & (
        (class_ids != settings.background_class) & (class_ids[:, :1] != settings.background_class)
    )
    refused = xp.zeros(len(class_ids), bool)
    found = xp.empty((len(class_ids), 0, 9 if settings.pointer == "box" else 5), np.float64)
    strength = xp.empty((len(class_ids), 0), np.float64)
    classes = xp.empty((len(class_ids), 0), np.int64)
    salient = weighing_heatmap(taps, settings)
    for rank in range(class_ids.shape[1]):
        class_id = class_ids[:, rank]
        heat = clustered_heatmap(class_heatmap(taps, signatures, class_id, settings), salient, settings)
        clusters, pointers = _pointers_and_cores(xp.where(takes_part[:, rank, None, None], heat, 0), settings)
        refused |= clusters < 0
        # How strong a cluster is for its class: its heat beside that of the strongest, which comes first.
        strong = pointers[..., 4] / pointers[:, :1, 4]
        # What is counted does not depend on what is pointed with.
        same = _shared_area(_cores(pointers), _cores(found)) > settings.class_overlap
        wins = strong[:, :, None] > strength[:, None]
        pointers = xp.where((same & ~wins).any(axis=2)[..., None], xp.nan, pointers)
        stands = ~xp.isnan(pointers[..., 0])
        found = xp.where((same & wins & stands[..., None]).any(axis=1)[..., None], xp.nan, found)
        found = xp.concatenate([found, pointers], axis=1)
        strength = xp.concatenate([strength, strong], axis=1)
        classes = xp.concatenate([classes, xp.broadcast_to(class_id[:, None], pointers.shape[:2])], axis=1)
    count = (~xp.isnan(found[..., 0])).sum(axis=1)
    return Outcome(
        count=xp.where(refused, -1, count),
        kind="box",
        pointers=found[..., :5],
        class_id=class_ids[:, 0],
        class_score=class_scores[:, 0],
        pointer_class=classes,
    )


def _shared_area(boxes: Array, others: Array) -> Array:
    """Return how much of the smaller of two boxes both share, (N, K, M) of (N, K, 4) and (N, M, 4); 0 without a box."""
    xp = get_array_module(boxes)
    boxes, others = xp.nan_to_num(boxes[:, :, None]), xp.nan_to_num(others[:, None])
    sides = xp.minimum(boxes[..., 2:], others[..., 2:]) - xp.maximum(boxes[..., :2], others[..., :2])
    smaller = xp.minimum(*((each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (boxes, others)))
    return xp.maximum(sides, 0).prod(axis=-1) / xp.where(smaller > 0, smaller, 1)


def class_heatmap(taps: Taps, signatures: SignatureDictionary | None, class_id: Array, settings: P2CSettings) -> Array:
    """Return the heatmap (N, H, W) of each image's class, by the signature that the settings name."""
    if settings.signature == EVIDENCE:
        return evidence_heatmap(taps, settings.mean_factor, settings.top_evidence)
    if signatures is None:
        raise ModelError("There is no signature dictionary to look the class up in: make one, or read the evidence.")
    return signature_heatmap(taps, signatures, class_id, settings)


def weighing_heatmap(taps: Taps, settings: P2CSettings) -> Array | None:
    """Return the heat (N, H, W) that any class's is weighed with, see `P2CSettings.heat`; None where there is none."""
    return salient_heatmap(taps, settings.salience) if settings.heat.split() else None


def clustered_heatmap(class_heat: Array, salient: Array | None, settings: P2CSettings) -> Array:
    """Return what is clustered, (N, H, W), of the heatmaps of the images' classes and their `weighing_heatmap`.

    The root keeps the weaker objects: in a product of so many heatmaps they are weaker by as many powers.
    """
    if salient is None:
        return class_heat
    return shared_heatmap(class_heat, salient) ** (1 / (1 + len(settings.heat.split())))


def evidence_heatmap(taps: Taps, mean_factor: float = 0.0, top: int = 0) -> Array:
    """Return the heatmap (N, H, W) of what the network sees in each image, by its own evidence; see `P2CSettings`."""
    maps = taps[MAPS_OF_HEAD if MAPS_OF_HEAD in taps else "conv_last"]
    return weighted_heatmap(maps, taps[EVIDENCE], mean_factor, top or None)


def signature_heatmap(taps: Taps, signatures: SignatureDictionary, class_id: Array, settings: P2CSettings) -> Array:
    """Return the heatmap (N, H, W) of each image's class: its signature's maps stacked, normalised and summed.

    Layers of different grids are brought to the finest one.
    """
    wanted = {"conv_last": settings.top_last, "conv_prev": settings.top_prev}
    layers = [
        (taps[name], signatures.lookup(name, class_id, min(k, taps[name].shape[1])))
        for name, k in wanted.items()
        if name in signatures.ranking and k > 0
    ]
    if not layers:
        raise ModelError(
            f"The signatures rank the maps of {sorted(signatures.ranking)}, of which the settings p2c.top_last and "
            f"p2c.top_prev take none: set the one that fits."
        )
    return selected_heatmap(layers, settings.mean_factor)


@dataclass(frozen=True)
class HeatClusters:
    """The clusters of N heatmaps.

    Attributes
    ----------
    labels, n_clusters
        (N, H, W) and (N,), as of `pc_engine.kernels.density_peaks`.
    heat, density
        (N, H, W): what was clustered, and what that was smoothed to, where it was.
    bad
        Which heatmaps were refused; see `split_bad_heat`.
    slots
        The most clusters that an image can have; None on a host, where they can be looked at.
    """

    labels: Array
    n_clusters: Array
    heat: Array
    density: Array
    bad: Array | None
    slots: int | None

    @property
    def count(self) -> Array:
        """(N,) int64: how many there are, -1 where the heatmap was refused."""
        return mark_bad(self.bad, -1, self.n_clusters)


def heat_clusters(heat: Array, settings: P2CSettings, n_centres: Array | None = None) -> HeatClusters:
    """Cluster each heatmap (N, H, W).

    ``n_centres`` (N,), for density peaks only, asks for that many clusters; an entry of -1 leaves the number to the
    image.
    """
    xp = get_array_module(heat)
    heat, bad = split_bad_heat(heat)
    # A device would have to be waited for to learn how many slots the batch needs; a host need not fill any in vain.
    if settings.cluster != "density-peaks":
        cluster = cuml_dbscan if settings.cluster == "cuml-dbscan" else dbscan
        found = cluster(_relative_to_mean(heat), eps=settings.eps, min_weight=settings.min_weight)
        slots = None if xp is np else _most_clusters(settings.eps, *heat.shape[1:])
        return HeatClusters(found.labels, found.n_clusters, heat, heat, bad, slots)
    peaks = density_peaks(
        heat,
        cutoff=settings.cutoff,
        min_density=settings.min_density,
        min_distance=settings.min_distance,
        n_centres=n_centres,
        prominence=settings.prominence or None,
    )
    slots = None if xp is np else peaks.centres.shape[1]
    return HeatClusters(peaks.labels, peaks.n_clusters, heat, peaks.density, bad, slots)


def cluster_pointers(heat: Array, settings: P2CSettings, n_centres: Array | None = None) -> tuple[Array, Array]:
    """Return how many `heat_clusters` there are, -1 where the heatmap is refused, and the pointers of `Outcome`."""
    count, pointers = _pointers_and_cores(heat, settings, n_centres)
    return count, pointers[..., :5]


def _pointers_and_cores(heat: Array, settings: P2CSettings, n_centres: Array | None = None) -> tuple[Array, Array]:
    """Return what `cluster_pointers` does; behind boxes around all of an object, (N, K, 9), those around its core."""
    found = heat_clusters(heat, settings, n_centres)
    cores = cluster_boxes(found.labels, found.density, found.n_clusters, trim=settings.trim, slots=found.slots)
    if settings.pointer == "core":
        return found.count, _box_pointers((cores.boxes,), cores.score, found.heat)
    whole = _whole_boxes(found.labels, found.heat, found.n_clusters, settings, found.slots)
    return found.count, _box_pointers((whole.boxes, cores.boxes), cores.score, found.heat)


def _cores(pointers: Array) -> Array:
    return pointers[..., 5:] if pointers.shape[-1] > 5 else pointers[..., :4]


def box_pointers(labels: Array, heat: Array, n_clusters: Array, settings: P2CSettings, slots: int | None) -> Array:
    """Return the pointers of `Outcome` around all of each cluster's object, as `pc_engine.kernels.cluster_boxes`."""
    whole = _whole_boxes(labels, heat, n_clusters, settings, slots)
    return _box_pointers((whole.boxes,), whole.score, heat)


def _whole_boxes(
    labels: Array, heat: Array, n_clusters: Array, settings: P2CSettings, slots: int | None
) -> ClusterBoxes:
    return cluster_boxes(labels, heat, n_clusters, trim=settings.box_trim, interpolate=True, slots=slots)


def _box_pointers(boxes: tuple[Array, ...], score: Array, heat: Array) -> Array:
    """Return boxes (N, K, 4) in cells of heatmaps (N, H, W) as pointers: the first, the score, and the others."""
    xp = get_array_module(heat)
    height, width = heat.shape[1:]
    size = constant(xp, (width, height, width, height), np.float64)
    first, *others = (each / size for each in boxes)
    score = xp.where(xp.isnan(first[..., 0]), xp.nan, score)
    return by_score(xp.concatenate([first, score[..., None], *others], axis=-1))


def _most_clusters(eps: float, height: int, width: int) -> int:
    """Return the most clusters that DBSCAN can find on a grid: core cells within ``eps`` share one."""
    if eps < 1:
        return height * width
    if eps < math.sqrt(2):
        return -(-height * width // 2)
    return -(-height // 2) * -(-width // 2)


def _relative_to_mean(heat: Array) -> Array:
    """Scale each heatmap so that its surviving cells have mean 1, so that ``min_weight`` means the same everywhere."""
    xp = get_array_module(heat)
    cells = xp.maximum((heat > 0).sum(axis=(1, 2)), 1)
    mean = heat.sum(axis=(1, 2)) / cells
    return heat / xp.where(mean > 0, mean, 1)[:, None, None]
