"""Fewer columns, same inner products: what makes a linear SVM on 33,280 features quick.

A linear SVM depends on its rows X (n, D) through the inner products X Xᵀ alone, so any Z with Z Zᵀ = X Xᵀ gives the
same fit (rotation invariance). With more features than images the Cholesky factor of the Gram matrix is such a Z with
at most n columns; the weights come back by w = Xᵀ α.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf

from pc_engine.errors import DataError
from pc_engine.kernels.unit_products import row_norms
from pc_engine.shown_text import number_of

# Columns taken at a time: bounds the float64 copy of the features to 8 * n * 2048 bytes.
_COLUMNS = 2048


@dataclass(frozen=True)
class ReducedRows:
    """Rows with the inner products of the L2-normalised, concatenated features.

    Attributes
    ----------
    rows
        Shape (n, r), float64.
    expand
        Takes weights on ``rows``, (L, r), to the weights on each tap's normalised features, (L, D_tap) float64; on maps
        they are alike on both sides.
    """

    rows: np.ndarray
    expand: Callable[[np.ndarray], dict[str, np.ndarray]]


def reduce_features(
    features: Mapping[str, np.ndarray],
    map_widths: Mapping[str, int] | None = None,
    norms: Mapping[str, np.ndarray] | None = None,
) -> ReducedRows:
    """Reduce L2-normalised, concatenated features to at most n columns where they have more.

    Parameters
    ----------
    features
        Tap name to rows, (n, D_tap) float32, raw or normalised.
    map_widths
        Width of a map by the names of those taps whose rows are maps, row by row; what they show is to count the same
        mirrored left to right.
    norms
        What each row is divided by, (n,) by tap; None for its own L2 norm, as a counter divides it. Rows divided by
        others are those that weights are expanded to.

    Raises
    ------
    DataError
        If a row holds a value that is not finite, or all values are 0.
    """
    widths = {name: (map_widths or {}).get(name, 1) for name in features}
    if norms is None:
        norms = {name: finite_norms(name, rows) for name, rows in features.items()}
    scales = {name: 1.0 / norms[name].astype(np.float64) for name in features}
    n = len(next(iter(features.values())))
    wide = sum(rows.shape[1] for rows in features.values()) > n
    reduced = (_from_gram if wide else _as_they_are)(features, widths, scales)
    if not reduced.rows.any():
        raise DataError(
            f"The features {', '.join(map(repr, features))} are 0 in all {n} images, so they cannot tell counts apart: "
            "export the network with others as --count-feature."
        )
    return reduced


def finite_norms(name: str, rows: np.ndarray) -> np.ndarray:
    """Return the L2 norm of each row of a tap, (n,) float32, 1 for an all-zero row.

    Raises
    ------
    DataError
        If a row holds a value that is not finite or too large.
    """
    with np.errstate(over="ignore"):  # which is said below
        norms: np.ndarray = row_norms(rows.astype(np.float32, copy=False))
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        raise DataError(
            f"The features '{name}' of {number_of(len(bad), 'image')} (the first is number {bad[0]}) hold values "
            f"that are not finite or too large: run the network in a higher precision."
        )
    return norms


def _as_they_are(
    features: Mapping[str, np.ndarray], widths: Mapping[str, int], scales: Mapping[str, np.ndarray]
) -> ReducedRows:
    stops = np.cumsum([rows.shape[1] for rows in features.values()])[:-1]

    def expand(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = zip(features, np.split(weights, stops, axis=1), strict=True)
        return {name: _alike_on_both_sides(part, widths[name]) for name, part in parts}

    rows = [_alike_on_both_sides(part * scales[name][:, None], widths[name]) for name, part in features.items()]
    return ReducedRows(np.concatenate(rows, axis=1), expand)


def _alike_on_both_sides(rows: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of maps (n, D) of so many columns and their mirror images: with a single one, the maps."""
    if width == 1:
        return rows
    maps = rows.reshape(len(rows), -1, width)
    mean: np.ndarray = (maps + maps[..., ::-1]) / 2
    return mean.reshape(rows.shape)


def _from_gram(
    features: Mapping[str, np.ndarray], widths: Mapping[str, int], scales: Mapping[str, np.ndarray]
) -> ReducedRows:
    """Reduce by the pivoted Cholesky factor of the Gram matrix, P G Pᵀ = L Lᵀ with L (n, r).

    The pivoting finds r images that span all others, so repeated images do no harm. With X₁ those r images in pivot
    order and L₁ the upper r rows of L, the rotation is Q = X₁ᵀ L₁⁻ᵀ, hence w = Q w_z = X₁ᵀ α with L₁ᵀ α = w_z.
    """
    gram = _gram(features, widths, scales)
    factor, pivots, rank, _ = dpstrf(gram, lower=1, overwrite_a=1)
    pivots = pivots - 1  # LAPACK counts from 1
    rows = np.empty((len(factor), rank))
    rows[pivots] = np.tril(factor[:, :rank])
    chosen = pivots[:rank]

    def expand(weights: np.ndarray) -> dict[str, np.ndarray]:
        alpha = solve_triangular(rows[chosen], weights.T, lower=True, trans="T").T
        expanded = {}
        for name, matrix in features.items():
            scaled = np.zeros((len(alpha), len(matrix)))
            scaled[:, chosen] = alpha * scales[name][chosen]
            blocks = [scaled @ block for block in _column_blocks(matrix, widths[name])]
            expanded[name] = np.concatenate(blocks, axis=1)
        return expanded

    return ReducedRows(rows, expand)


def _gram(
    features: Mapping[str, np.ndarray], widths: Mapping[str, int], scales: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the lower triangle of the Gram matrix, (n, n) float64 in Fortran order; BLAS adds each block in place."""
    n = len(next(iter(features.values())))
    gram = np.zeros((n, n), order="F")
    for name, matrix in features.items():
        for block in _column_blocks(matrix, widths[name]):
            block *= scales[name][:, None]
            gram = dsyrk(1.0, block.T, beta=1.0, c=gram, trans=1, lower=1, overwrite_c=1)
    return gram


def _column_blocks(matrix: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yield the features in float64, whole rows of maps at a time, each map alike on both sides."""
    columns = max(_COLUMNS // width, 1) * width
    for start in range(0, matrix.shape[1], columns):
        yield _alike_on_both_sides(matrix[:, start : start + columns].astype(np.float64), width)
