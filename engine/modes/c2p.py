"""Count, then point (paper 3.1): an SVM counts, then a Gaussian mixture with that many components is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.errors import UsageError
from pc_engine.fitted.counter import CountSVM, label_counts
from pc_engine.hardware.device_arrays import constant
from pc_engine.kernels import GaussianMixtures, weighted_gmm
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import Manifest
from pc_engine.modes.known_count import KnownCount, as_counts, require_counter
from pc_engine.modes.limits import FACTOR, LENGTH, check_limits
from pc_engine.modes.outcome import Outcome, ellipse_pointers, mark_bad, pointer_room, split_bad_heat
from pc_engine.modes.salience import MEAN_FACTOR, SALIENT_SETTING, Salience, heat_taps, salient_heatmap

_USUAL_HEAT = "conv_last"


@dataclass(frozen=True)
class C2PSettings:
    """Settings of count-then-point.

    Attributes
    ----------
    heat
        The taps whose maps' mean is the heatmap, spaces between their names (paper 3.1: a heatmap "from the last
        convolutional layer", ``conv_last``; how its maps become one is not said). Of several the
        heatmaps are multiplied: coarse maps tell objects from their surroundings, finer ones where they lie
        (``bench/results/ablation-photos.json``).
    mean_factor
        Multiple of a heatmap's mean that is subtracted before clamping at 0. The paper has it "properly normalized"
        (3.1), and subtracts 2 times the mean from what p2c stacks (4). Of photos' heatmaps 2 often leaves nothing:
        told the count, c2p then points right in 31 % for 67 at an overlap of .5 and 21 for 57 at .8
        (``bench/results/ablation-photos.json``). On MNIST-LEGO scenes, where heat is sparse, 2 is better: 98 % as with
        1, and 92 for 84 (``bench/results/ablation-lego.json``).
    min_deviation
        Smallest standard deviation of a component, in grid cells: one cell alone has no spread of its own.
    max_iter, tol
        EM stops after ``max_iter`` steps, or when the mean log-likelihood rises by less than ``tol``.
    """

    heat: str = _USUAL_HEAT
    mean_factor: float = MEAN_FACTOR
    min_deviation: float = 0.35
    max_iter: int = 100
    tol: float = 1e-3

    def __post_init__(self) -> None:
        limits = {"mean_factor": FACTOR, "min_deviation": LENGTH, "max_iter": (1, 100_000), "tol": (0.0, 1e6)}
        check_limits(self, "c2p", limits)
        if not self.heat.split():
            raise UsageError(
                f"The setting {SALIENT_SETTING} names no tap: name those whose maps are to give the heatmap."
            )

    @property
    def salience(self) -> Salience:
        """What is pointed at."""
        return Salience(self.heat, self.mean_factor)


def c2p_taps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps that `c2p` reads; no other output of the network has to be computed.

    Raises
    ------
    ManifestError
        If the heatmap is to be that of taps that the network does not have, or that are no maps.
    """
    return tuple(dict.fromkeys((*manifest.count_features, *heat_taps(manifest, SALIENT_SETTING, _USUAL_HEAT))))


def c2p(
    taps: Taps, counter: CountSVM | None, settings: C2PSettings | None = None, known_count: KnownCount | None = None
) -> Outcome:
    """Count each image of a batch with the SVM, and point with as many ellipses.

    Parameters
    ----------
    taps
        The counter's features, and the maps (N, C, H, W) of the setting ``heat``.
    counter
        The count SVM; not read where counts are known.
    settings
        None for the defaults.
    known_count
        How many objects to point at, where that is known; None to count them.

    Returns
    -------
    Outcome
        Kind ``"ellipse"``: half axes are the standard deviations, i.e. {x : (x-mu)' inv(Sigma) (x-mu) = 1}; the score
        is the component's mixture weight. An open-ended label such as "4+" counts and points as its lower end. Fewer
        ellipses than the count where the heatmap has fewer cells. No count scores where counts are known.

    Raises
    ------
    ModelError
        If there is neither a counter nor a known count.
    """
    settings = settings or C2PSettings()
    heat = salient_heatmap(taps, settings.salience)
    xp = get_array_module(heat)
    scores: Array | None = None
    if known_count is not None:
        count, largest = as_counts(known_count, heat)
    else:
        counter = require_counter(counter)
        scores = counter.scores(taps)
        counts = tuple(map(int, label_counts(counter.labels)))
        count, largest = constant(xp, counts, np.int64)[scores.argmax(axis=1)], counts[-1]
    # No more than there are cells, whatever the counter says: its labels may be of any size.
    cells, most = pointer_room(heat, largest)
    fitted, pointers = mixture_pointers(heat, xp.minimum(count, cells), settings, most)
    return Outcome(count=xp.where(fitted < 0, -1, count), kind="ellipse", pointers=pointers, count_scores=scores)


def mixture_pointers(heat: Array, count: Array, settings: C2PSettings, most: int | None = None) -> tuple[Array, Array]:
    """Fit ``count`` Gaussians to each heatmap (N, H, W), ``most`` of them at most if that is known.

    Returns the number fitted (N,), -1 where the heatmap is refused, and the pointers (N, K, 5) of `Outcome`.
    """
    fitted, mixtures = fitted_mixtures(heat, count, settings, most)
    return fitted, ellipse_pointers(mixtures.means, mixtures.variances, mixtures.mixing, heat.shape[1:])


def fitted_mixtures(
    heat: Array, count: Array, settings: C2PSettings, most: int | None = None
) -> tuple[Array, GaussianMixtures]:
    """Return the first that `mixture_pointers` returns, and the mixtures that its pointers are drawn from."""
    heat, bad = split_bad_heat(heat)
    mixtures = weighted_gmm(
        heat,
        count,
        max_iter=settings.max_iter,
        tol=settings.tol,
        variance_floor=settings.min_deviation**2,
        max_components=most,
    )
    return mark_bad(bad, -1, mixtures.n_components_), mixtures
