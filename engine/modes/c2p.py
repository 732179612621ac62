"""Count, then point (paper 3.1): an SVM counts, then a Gaussian mixture with that many components is fitted."""

from __future__ import annotations

from dataclasses import dataclass

from pc_engine.backbone import Taps
from pc_engine.counter import CountSVM, label_counts
from pc_engine.kernels import normalise_heatmap, weighted_gmm
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import Manifest
from pc_engine.modes.limits import FACTOR, LENGTH, check_limits
from pc_engine.modes.outcome import Outcome, by_score


@dataclass(frozen=True)
class C2PSettings:
    """Settings of count-then-point.

    Attributes
    ----------
    mean_factor
        Multiple of the heatmap's mean that is subtracted before clamping at 0.
    min_deviation
        Smallest standard deviation of a component, in grid cells: one cell alone has no spread of its own.
    max_iter, tol
        EM stops after ``max_iter`` steps, or when the mean log-likelihood rises by less than ``tol``.
    """

    mean_factor: float = 1.0
    min_deviation: float = 0.35
    max_iter: int = 100
    tol: float = 1e-3

    def __post_init__(self) -> None:
        limits = {"mean_factor": FACTOR, "min_deviation": LENGTH, "max_iter": (1, 100_000), "tol": (0.0, 1e6)}
        check_limits(self, "c2p", limits)


def c2p_taps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps that `c2p` reads; no other output of the network has to be computed."""
    return tuple(dict.fromkeys((*manifest.count_features, "conv_last")))


def c2p(taps: Taps, counter: CountSVM, settings: C2PSettings | None = None) -> Outcome:
    """Count each image of a batch with the SVM, and point with as many ellipses.

    Parameters
    ----------
    taps
        The counter's features, and ``conv_last`` (N, C, H, W).
    counter
        The count SVM.
    settings
        None for the defaults.

    Returns
    -------
    Outcome
        Kind ``"ellipse"``: half axes are the standard deviations, i.e. {x : (x-mu)' inv(Sigma) (x-mu) = 1}; the score
        is the component's mixture weight. An open-ended label such as "4+" counts and points as its lower end.
    """
    settings = settings or C2PSettings()
    xp = get_array_module(taps["conv_last"])
    scores = counter.scores(taps)
    count = xp.asarray(label_counts(counter.labels))[scores.argmax(axis=1)]
    pointers = mixture_pointers(attention(taps["conv_last"], settings.mean_factor), count, settings)
    return Outcome(count=count, kind="ellipse", pointers=pointers, count_scores=scores)


def attention(maps: Array, mean_factor: float) -> Array:
    """Return the class-agnostic heatmap (N, H, W) of maps (N, C, H, W): their mean over channels, normalised.

    Where that leaves nothing, as on a map without contrast, the mean itself is returned.
    """
    xp = get_array_module(maps)
    mean = maps.mean(axis=1)
    heat = normalise_heatmap(mean[:, None], mean_factor)
    empty = ~(heat > 0).any(axis=(1, 2))
    return xp.where(empty[:, None, None], xp.maximum(mean, 0), heat)


def mixture_pointers(heat: Array, count: Array, settings: C2PSettings) -> Array:
    """Fit ``count`` Gaussians to each heatmap (N, H, W) and return the pointers (N, K, 5) of `Outcome`."""
    xp = get_array_module(heat)
    mixtures = weighted_gmm(
        heat, count, max_iter=settings.max_iter, tol=settings.tol, variance_floor=settings.min_deviation**2
    )
    size = xp.asarray(heat.shape[:0:-1], dtype=xp.float64)  # (W, H), as x comes first
    centre = (mixtures.means + 0.5) / size  # cell centres lie at integers, the picture's edge half a cell outside
    radius = xp.sqrt(mixtures.variances) / size
    score = xp.where(xp.isnan(mixtures.means[..., 0]), xp.nan, mixtures.mixing)
    return by_score(xp.concatenate([centre, radius, score[..., None]], axis=-1))
