"""Count and point in one pass: the paper's open question (4.3), which of the two goes first, answered with both.

The SVM's count tells density clustering how many centres to take from the signature's heatmap. Where the SVM says
"4+", which is no number, the clustering decides, with the label's lower end as the least.
"""

from __future__ import annotations

from pc_engine.backbone import Taps
from pc_engine.counter import CountSVM, label_counts
from pc_engine.errors import UsageError
from pc_engine.kernels.array_module import get_array_module
from pc_engine.manifest import Manifest
from pc_engine.modes.c2p import c2p_taps
from pc_engine.modes.classify import predict_class
from pc_engine.modes.outcome import Outcome
from pc_engine.modes.p2c import P2CSettings, cluster_pointers, p2c_taps, signature_heatmap
from pc_engine.signatures import SignatureDictionary


def combined_taps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps that `combined` reads."""
    return tuple(dict.fromkeys((*c2p_taps(manifest), *p2c_taps(manifest))))


def combined(
    taps: Taps, counter: CountSVM, signatures: SignatureDictionary, settings: P2CSettings | None = None
) -> Outcome:
    """Count with the SVM, and point with that many clusters of the class's heatmap.

    Parameters
    ----------
    taps
        All that `pc_engine.modes.c2p.c2p` and `pc_engine.modes.p2c.p2c` read.
    counter, signatures
        The count SVM and the signature dictionary.
    settings
        Those of the heatmap and its clustering, which has to be density peaks; None for the defaults.

    Returns
    -------
    Outcome
        Kind ``"box"``. The count is the SVM's, save under its open-ended label: there it is the number of clusters, but
        no less than the label's lower end. Fewer pointers than the count where the heatmap has fewer peaks.

    Raises
    ------
    UsageError
        If the settings name a clustering that cannot be asked for a number of clusters.
    """
    settings = settings or P2CSettings()
    if settings.cluster != "density-peaks":
        raise UsageError(
            "Mode combined asks for a number of clusters, which only density-peaks can give: leave --cluster out."
        )
    xp = get_array_module(taps["conv_last"])
    scores = counter.scores(taps)
    label = scores.argmax(axis=1)
    floor = xp.asarray(label_counts(counter.labels))[label]
    is_open = xp.asarray([name.endswith("+") for name in counter.labels])[label]

    class_id, class_score = predict_class(taps["logits"])
    heat = signature_heatmap(taps, signatures, class_id, settings)
    found, pointers = cluster_pointers(heat, settings, n_centres=xp.where(is_open, -1, floor))
    too_few = is_open & (found < floor)
    if too_few.any():
        # "4+" is at least four: where clustering alone finds fewer, ask it for four, as for any other count.
        _, pointers = cluster_pointers(heat, settings, n_centres=xp.where(is_open & ~too_few, -1, floor))
    return Outcome(
        count=xp.where(is_open, xp.maximum(found, floor), floor),
        kind="box",
        pointers=pointers,
        count_scores=scores,
        class_id=class_id,
        class_score=class_score,
    )
