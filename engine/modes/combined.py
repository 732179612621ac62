"""Count and point in one pass: the paper's open question (4.3), which of the two goes first, answered with both.

The SVM says which counts are plausible, and the clustering of the signature's heatmap chooses among them. Where the
answer is "4+", which is no number, the clustering counts on, with the label's lower end as the least. Pointers are then
fitted where both look: on the cells that are salient, as c2p sees it, and speak for the class, as p2c does.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.counter import CountSVM, label_counts
from pc_engine.device_arrays import constant
from pc_engine.errors import UsageError
from pc_engine.kernels import mean_heatmap, resize_maps
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import Manifest
from pc_engine.modes.c2p import C2PSettings, c2p_taps, mixture_pointers
from pc_engine.modes.classify import predict_class
from pc_engine.modes.limits import check_limits
from pc_engine.modes.outcome import Outcome, split_bad_heat
from pc_engine.modes.p2c import P2CSettings, class_heatmap, cluster_pointers, p2c_taps
from pc_engine.signatures import SignatureDictionary

PointerKind = Literal["ellipse", "box"]
_POINTER_KINDS: tuple[PointerKind, ...] = ("ellipse", "box")


@dataclass(frozen=True)
class CombinedSettings:
    """How the two counts are weighed, and how the count is pointed at.

    Attributes
    ----------
    pointer
        ``"ellipse"``: as many Gaussians as the count, fitted as in c2p to the product of both heatmaps, c2p's and the
        class's. ``"box"``: boxes as in p2c, around as many clusters of the class's heatmap. Ellipses lie on the objects
        more often, boxes cover more of them (``bench/results/ablation-lego.json``).
    margin
        A label is plausible if its SVM score is at most this much below the best one. If the clustering's own count is
        plausible, it is taken, else the SVM's. 0 always takes the SVM's; a large value always the clustering's. In
        units of the SVM's decision values, whose margin between classes is 1 to -1.
    """

    margin: float = 0.3
    pointer: PointerKind = "ellipse"

    def __post_init__(self) -> None:
        if self.pointer not in _POINTER_KINDS:
            raise UsageError(f"There is no pointer '{self.pointer}': choose one of {', '.join(_POINTER_KINDS)}.")
        check_limits(self, "combined", {"margin": (0.0, 1e6)})


def combined_taps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps that `combined` reads."""
    return tuple(dict.fromkeys((*c2p_taps(manifest), *p2c_taps(manifest))))


def combined(
    taps: Taps,
    counter: CountSVM,
    signatures: SignatureDictionary | None,
    settings: P2CSettings | None = None,
    weighing: CombinedSettings | None = None,
    mixture: C2PSettings | None = None,
) -> Outcome:
    """Count with the SVM and the clustering, and point with as many ellipses or boxes.

    Parameters
    ----------
    taps
        All that `pc_engine.modes.c2p.c2p` and `pc_engine.modes.p2c.p2c` read.
    counter, signatures
        The count SVM and the signature dictionary, which is not read with the setting ``signature="evidence"``.
    settings
        Those of the heatmap and its clustering, which has to be density peaks; None for the defaults.
    weighing
        How the two counts are weighed, and with what to point; None for the defaults.
    mixture
        Settings of c2p's heatmap and of the Gaussians; None for the defaults.

    Returns
    -------
    Outcome
        Of the kind that ``weighing`` names. Fewer ellipses than the count where the heatmap has fewer cells, fewer
        boxes where it has fewer peaks.

    Raises
    ------
    UsageError
        If the settings name a clustering that cannot be asked for a number of clusters.
    """
    settings, weighing = settings or P2CSettings(), weighing or CombinedSettings()
    if settings.cluster != "density-peaks":
        raise UsageError(
            "Mode combined asks for a number of clusters, which only density-peaks can give: leave --cluster out."
        )
    xp = get_array_module(taps["logits"])
    scores = counter.scores(taps)
    # The class only says where to look, so "no object" is an answer to how many, not to what.
    sees_nothing = predict_class(taps["logits"])[0] == settings.background_class
    class_id, class_score = predict_class(taps["logits"], without=settings.background_class)
    heat = class_heatmap(taps, signatures, class_id, settings)
    clusters, boxes = cluster_pointers(heat, settings)
    found = xp.where(sees_nothing, 0, clusters)

    label = _weigh(scores, found, counter.labels, weighing.margin)
    counts = _label_counts(xp, counter.labels)
    floor = counts[label]
    is_open = constant(xp, tuple(name.endswith("+") for name in counter.labels), bool)
    counts_on = is_open[label] & (found > floor)
    count = xp.where(counts_on, found, floor)
    if weighing.pointer == "box":
        fitted, pointers = cluster_pointers(heat, settings, n_centres=xp.where(counts_on, -1, floor))
    else:
        mixture = mixture or C2PSettings()
        # A device would have to be waited for to learn the largest count; there the clustering has a slot for any.
        most = None if xp is np else max(boxes.shape[1], *map(int, label_counts(counter.labels)))
        shared = _shared_heatmap(taps["conv_last"], heat, mixture.mean_factor)
        fitted, pointers = mixture_pointers(shared, count, mixture, most)
    return Outcome(
        count=xp.where(fitted < 0, -1, count),
        kind=weighing.pointer,
        pointers=pointers,
        count_scores=scores,
        class_id=class_id,
        class_score=class_score,
    )


def _shared_heatmap(maps: Array, class_heat: Array, mean_factor: float) -> Array:
    """Return the product of the mean heatmap of ``maps`` and the class's, on the finer grid; NaN where one is refused.

    Where the two share no cell the class's stands alone, so that what is counted is pointed at.
    """
    xp = get_array_module(maps)
    salient, unsound = split_bad_heat(mean_heatmap(maps, mean_factor))
    class_heat, bad = split_bad_heat(class_heat)
    height, width = np.maximum(salient.shape[1:], class_heat.shape[1:]).tolist()
    class_heat = resize_maps(class_heat, height, width)
    # Their ratios alone matter, and below 1 the product cannot overflow.
    peak = salient.max(axis=(1, 2), keepdims=True)
    shared = resize_maps(salient / xp.where(peak > 0, peak, 1), height, width) * class_heat
    shared = xp.where((shared > 0).any(axis=(1, 2), keepdims=True), shared, class_heat)
    return xp.where((bad | unsound)[:, None, None], xp.nan, shared)


def _weigh(scores: Array, found: Array, labels: tuple[str, ...], margin: float) -> Array:
    """Return the index of each image's label (N,): that of the count ``found`` if it is plausible, else the SVM's."""
    xp = get_array_module(scores)
    best = scores.argmax(axis=1)
    counts = _label_counts(xp, labels)
    nearest = xp.maximum(xp.searchsorted(counts, found, side="right") - 1, 0)
    is_label = counts[nearest] == found
    if labels[-1].endswith("+"):
        is_label |= found >= counts[-1]
    image = xp.arange(len(scores))
    plausible = scores[image, nearest] >= scores[image, best] - margin
    return xp.where(is_label & plausible, nearest, best)


def _label_counts(xp: ModuleType, labels: tuple[str, ...]) -> Array:
    return constant(xp, tuple(map(int, label_counts(labels))), np.int64)
