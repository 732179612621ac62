"""Count and point in one pass: the paper's open question (4.3), which of the two goes first, answered with both.

The SVM says which counts are plausible, the clustering of the signature's heatmap chooses among them, and is then
asked for that many centres. Where the answer is "4+", which is no number, the clustering counts on, with the label's
lower end as the least.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.counter import CountSVM, label_counts
from pc_engine.device_arrays import constant
from pc_engine.errors import UsageError
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import Manifest
from pc_engine.modes.c2p import c2p_taps
from pc_engine.modes.classify import predict_class
from pc_engine.modes.limits import check_limits
from pc_engine.modes.outcome import Outcome
from pc_engine.modes.p2c import P2CSettings, class_heatmap, cluster_pointers, p2c_taps
from pc_engine.signatures import SignatureDictionary


@dataclass(frozen=True)
class CombinedSettings:
    """How the two counts are weighed.

    Attributes
    ----------
    margin
        A label is plausible if its SVM score is at most this much below the best one. If the clustering's own count is
        plausible, it is taken, else the SVM's. 0 always takes the SVM's; a large value always the clustering's. In
        units of the SVM's decision values, whose margin between classes is 1 to -1.
    """

    margin: float = 0.3

    def __post_init__(self) -> None:
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
) -> Outcome:
    """Count with the SVM and the clustering, and point with that many clusters of the class's heatmap.

    Parameters
    ----------
    taps
        All that `pc_engine.modes.c2p.c2p` and `pc_engine.modes.p2c.p2c` read.
    counter, signatures
        The count SVM and the signature dictionary, which is not read with the setting ``signature="evidence"``.
    settings
        Those of the heatmap and its clustering, which has to be density peaks; None for the defaults.
    weighing
        How the two counts are weighed; None for the defaults.

    Returns
    -------
    Outcome
        Kind ``"box"``. Fewer pointers than the count where the heatmap has fewer peaks.

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
    found = xp.where(sees_nothing, 0, cluster_pointers(heat, settings)[0])

    label = _weigh(scores, found, counter.labels, weighing.margin)
    floor = _label_counts(xp, counter.labels)[label]
    is_open = constant(xp, tuple(name.endswith("+") for name in counter.labels), bool)
    counts_on = is_open[label] & (found > floor)
    clusters, pointers = cluster_pointers(heat, settings, n_centres=xp.where(counts_on, -1, floor))
    return Outcome(
        count=xp.where(clusters < 0, -1, xp.where(counts_on, found, floor)),
        kind="box",
        pointers=pointers,
        count_scores=scores,
        class_id=class_id,
        class_score=class_score,
    )


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
