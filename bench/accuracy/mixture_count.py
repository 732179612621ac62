"""A trial: how many objects an image under an open-ended label shows, by model selection among Gaussian mixtures.

c2p ends at such a label, and combined goes on by what its counter learnt. Here mixtures of more and more components are
fitted to the heat that is pointed at, and the Bayesian information criterion (BIC; Schwarz 1978) chooses among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.engine import Engine
from pc_engine.kernels import weighted_gmm
from pc_engine.kernels.array_module import to_host
from pc_engine.modes.c2p import C2PSettings
from pc_engine.modes.combined import pointed_heatmap, seen_classes
from pc_engine.modes.outcome import split_bad_heat
from pc_engine.modes.salience import salient_heatmap
from pc_engine.pipeline import TapBatch
from pc_engine.result import Result

SampleSize = Literal["cells", "effective cells"]
SAMPLE_SIZES: tuple[SampleSize, ...] = ("cells", "effective cells")
# Components that are tried at most, and how many more of them may be worse before none is better: images of thirty
# objects are rare, and a finer grid than 14 x 14 would not show more.
_MOST, _PATIENCE = 30, 5
# A component has two means and two variances, and its share of the weight, which is given for the last.
_PARAMETERS = 5


@dataclass(frozen=True)
class MixtureCount:
    """Counts anew what a mode counted under an open-ended label.

    Attributes
    ----------
    sample
        What BIC takes for the number of observations: the ``"cells"`` that have heat, or as many cells of equal heat as
        would vary like them, the square of the heat's sum over the sum of its squares (Kish 1965), ``"effective
        cells"``.
    """

    sample: SampleSize

    def __call__(self, engine: Engine, batch: TapBatch, rows: Sequence[Result]) -> list[Result]:
        """Return ``rows``, the engine's of the batch's entries, with the counts of such images replaced.

        Their pointers stay, as many as the mode drew.
        """
        found = list(rows)
        places = [number for number, place in enumerate(batch.rows) if (rows[place].count_label or "").endswith("+")]
        if not places or batch.taps is None:
            return found
        heat = _pointed_at({name: tap[places] for name, tap in batch.taps.items()}, engine)
        least = [int((rows[batch.rows[number]].count_label or "").removesuffix("+")) for number in places]
        counts = mixture_counts(heat, least[0], self.sample, engine.settings.c2p)
        for number, count in zip(places, counts.tolist(), strict=True):
            place = batch.rows[number]
            found[place] = replace(rows[place], count=count)
        return found


def mixture_counts(heat: np.ndarray, least: int, sample: SampleSize, settings: C2PSettings) -> np.ndarray:
    """Return the number of components, ``least`` or more, whose mixture has the least BIC on each heatmap.

    Parameters
    ----------
    heat
        (N, H, W) on the host; one that is refused has ``least``.
    least
        The lower end of the label.
    sample
        The number of observations; see `MixtureCount`. The log-likelihood is the mean over the heat times this.
    settings
        How mixtures are fitted.

    Returns
    -------
    numpy.ndarray
        (N,) int64. The smaller of equals, and no more than the heatmap has cells with heat.
    """
    heat, _ = split_bad_heat(heat)
    heat = heat.astype(np.float64)
    cells = (heat > 0).sum(axis=(1, 2))
    size = cells if sample == "cells" else _effective_cells(heat)
    best, least_bic = np.full(len(heat), least, np.int64), np.full(len(heat), math.inf)
    left = np.flatnonzero(cells >= least)
    for components in range(least, _MOST + 1):
        left = left[(cells[left] >= components) & (components - best[left] <= _PATIENCE)]
        if not len(left):
            break
        mixtures = weighted_gmm(
            heat[left],
            np.full(len(left), components),
            max_iter=settings.max_iter,
            tol=settings.tol,
            variance_floor=settings.min_deviation**2,
        )
        parameters = _PARAMETERS * components - 1
        bic = parameters * np.log(size[left]) - 2 * size[left] * mixtures.log_likelihood
        better = bic < least_bic[left]
        best[left[better]], least_bic[left[better]] = components, bic[better]
    return best


def _effective_cells(heat: np.ndarray) -> np.ndarray:
    peaks = heat.max(axis=(1, 2), keepdims=True)
    scaled = heat / np.where(peaks > 0, peaks, 1.0)
    squares = (scaled**2).sum(axis=(1, 2))
    effective: np.ndarray = scaled.sum(axis=(1, 2)) ** 2 / np.where(squares > 0, squares, 1.0)
    return effective


def _pointed_at(taps: Taps, engine: Engine) -> np.ndarray:
    """Return the heat (N, H, W) that the engine's mode fits a mixture to, or draws ellipses on."""
    settings, mixture = engine.settings, engine.settings.c2p
    if engine.mode.name != "combined":
        return to_host(salient_heatmap(taps, mixture.salience))
    seen = seen_classes(taps, engine.model.parts.signatures, settings.p2c)
    return to_host(pointed_heatmap(taps, seen, settings.combined, settings.p2c, mixture))
