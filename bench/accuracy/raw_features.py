"""A trial: counters that read taps as they come, where the paper's read L2-normalised ones (3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from pc_engine.fitted.counter import CountSVM
from pc_engine.fitting.reduction import ReducedRows, finite_norms, reduce_features
from pc_engine.kernels.array_module import Array, get_array_module


def reduce_raw(features: Mapping[str, np.ndarray], map_widths: Mapping[str, int] | None = None) -> ReducedRows:
    """Reduce features as `pc_engine.fitting.reduction.reduce_features` does, without normalising each row.

    All rows of a tap are divided by one number, the root mean square of their norms: taps then count as much beside
    each other, and to a given C, as normalised ones do, while images keep their differences. Weights are expanded to
    those of the taps as they come.
    """
    norms = {
        name: float(np.sqrt(np.mean(finite_norms(name, rows).astype(np.float64) ** 2)))
        for name, rows in features.items()
    }
    alike = {name: np.full(len(rows), norms[name]) for name, rows in features.items()}
    reduced = reduce_features(features, map_widths, alike)

    def expand(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: part / norms[name] for name, part in reduced.expand(weights).items()}

    return ReducedRows(reduced.rows, expand)


class RawCounter(CountSVM):
    """A counter whose weights are those of taps that are not normalised."""

    @classmethod
    def of(cls, counter: CountSVM) -> Self:
        """Return the counter with the weights of ``counter``, which `reduce_raw` expanded."""
        names = ("features", "labels", "weights", "bias", "clusters", "beyond", "images")
        return cls(**{name: getattr(counter, name) for name in names})

    def scores(self, taps: Mapping[str, Array]) -> Array:
        """Score every label for every image; see `CountSVM.scores`."""
        return self._raw_products(taps, self.weights) + self._bias(taps[self.features[0]])

    def scores_and_counts(self, taps: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """Return `scores`, and what `beyond` says of each image; see `CountSVM.scores_and_counts`."""
        scores = self.scores(taps)
        if self.beyond is None:
            return scores, None
        return scores, self.beyond.counts(self._raw_products(taps, self.beyond.weights)[:, 0])

    def _raw_products(self, taps: Mapping[str, Array], weights: Mapping[str, np.ndarray]) -> Array:
        xp = get_array_module(taps[self.features[0]])
        flat = {name: taps[name].reshape(len(taps[name]), -1).astype(xp.float32) for name in self.features}
        return sum(flat[name] @ xp.asarray(weights[name]).T for name in self.features)
