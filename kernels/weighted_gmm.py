"""Weighted Gaussian mixtures with diagonal covariances on grid cells, fitted by EM for a batch of heatmaps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of, no_array
from pc_engine.kernels.validation import check_positive, checked_counts, checked_weights, device_weights

# A density below this may have lost components to underflow (float64 ends at 1e-308); such images take the slower
# path in log space. Above it, a component that underflowed had a share of less than 1e-100 in any cell.
_SAFE_DENSITY = 1e-200
# Slots of EM's matrices for images of up to so many components; more take the next power of two.
_LEAST_WIDTH = 4
# Images that are done keep computing until this share of the batch is done: dropping them costs a copy.
_DROP_SHARE = 0.2


@dataclass(frozen=True)
class GaussianMixtures:
    """A mixture for each image, K being ``max_components``, or else the largest number of components asked for.

    Attributes
    ----------
    means
        (N, K, 2) float64: (x, y) in cells, cell centres at integer coordinates. NaN in unused slots.
    variances
        (N, K, 2) float64: diagonal of the covariance, (x, y) in square cells. NaN in unused slots.
    mixing
        (N, K) float64: mixture weights, which sum to 1; 0 in unused slots. Components stay in the order of their
        starts, the heaviest cell's first.
    n_components_
        (N,) int64: components really fitted: what was asked for, or the number of cells of positive weight if that
        is less. On a device, -1 where the weights or the number asked for are refused.
    n_iter
        (N,) int64: EM iterations run.
    converged
        (N,) bool: whether the last iteration changed ``log_likelihood`` by less than ``tol``; true for an image
        without components.
    log_likelihood
        (N,) float64: mean log-likelihood per unit of weight at the last E-step (scikit-learn's ``lower_bound_``);
        NaN for an image without components.
    """

    means: Array
    variances: Array
    mixing: Array
    n_components_: Array
    n_iter: Array
    converged: Array
    log_likelihood: Array


@dataclass(frozen=True)
class _Mixture:
    """Parameters of n mixtures; axis 1 of ``mean`` and ``variance`` (n, 2, K) is (y, x), ``mixing`` is (n, K)."""

    mean: Array
    variance: Array
    mixing: Array

    def take(self, images: Array) -> _Mixture:
        """Keep the mixtures of some images."""
        return _Mixture(self.mean[images], self.variance[images], self.mixing[images])


def weighted_gmm(
    weights: Array,
    n_components: Array,
    *,
    max_iter: int = 100,
    tol: float = 1e-3,
    variance_floor: float = 0.35**2,
    means_init: Array | None = None,
    max_components: int | None = None,
) -> GaussianMixtures:
    """Fit a Gaussian mixture to the cells of each heatmap, each cell counting as much as its weight.

    Parameters
    ----------
    weights
        (N, H, W), finite, >= 0. Only their ratios within an image matter.
    n_components
        (N,) integers >= 0: components of each image's mixture.
    max_iter
        EM iterations at most.
    tol
        An image is done once its ``log_likelihood`` changes by less than this.
    variance_floor
        Smallest variance in square cells, taken as a maximum after each M-step.
    means_init
        (N, K, 2): where the means start, (x, y); slots beyond an image's components are ignored. By default the
        heaviest cell, then again and again the cell with the greatest product of weight and squared distance to the
        nearest mean so far (ties: lowest row-major index).
    max_components
        K, where the caller knows it. None asks ``n_components`` for its largest value; if that lies on a device, this
        waits for the device.

    Returns
    -------
    GaussianMixtures

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or a parameter lies outside its range. A device marks the images whose
        values are so; see `pc_engine.kernels.cuda`.

    Notes
    -----
    Paper 3.1. Variances start at the variance of the image's heat along each axis divided by the number of
    components (and at least ``variance_floor``), mixture weights at 1 / components. From the same start the result
    is that of ``sklearn.mixture.GaussianMixture(covariance_type="diag")``, but for the floor, which scikit-learn adds.

    A diagonal Gaussian on a grid is the outer product of a row and a column factor. The mixture's density is then a
    product of two matrices (H, K) and (K, W), the sums of the M-step are two more, and no tensor of shape
    (N, K, H, W) is formed. Where a density underflows, an image's E-step runs in log space instead.

    A component that loses all of its responsibility keeps its mean and variance with a mixture weight of 0.
    """
    xp = get_array_module(weights)
    requested = checked_counts(n_components, weights, "n_components")
    check_positive(variance_floor, "variance_floor")
    if max_iter < 1 or not tol >= 0:
        raise ValueError(f"max_iter must be at least 1 and tol at least 0, but they are {max_iter} and {tol}.")
    if max_components is not None and max_components < 0:
        raise ValueError(f"max_components must be at least 0, but is {max_components}.")
    device = device_of(weights)
    if device is not None:
        settings = (xp.int32(max_iter), xp.float64(tol), xp.float64(variance_floor))
        heat = device_weights(weights, "weighted_gmm")
        slots = _slots(n_components, max_components)
        return _on_device(device, heat, requested, slots, settings, means_init)
    heat = checked_weights(weights, "weighted_gmm")
    if len(heat) and int(requested.min()) < 0:
        raise ValueError(f"n_components must be at least 0, but its least value is {int(requested.min())}.")
    slots = _slots(requested, max_components)
    if len(heat) and int(requested.max()) > slots:
        raise ValueError(f"n_components reaches {int(requested.max())}, beyond max_components, which is {slots}.")
    fitted = xp.minimum(requested, (heat > 0).sum(axis=(1, 2)))
    used = xp.arange(slots) < fitted[:, None]
    given = None if means_init is None else _given_means(xp, means_init, used)
    result = _empty_result(xp, used, fitted)
    for width, images in _by_width(xp, fitted):
        square_heat = _square_heat(xp, heat[images])
        if given is None:
            means = _farthest_first(xp, square_heat, width)
        else:
            means = xp.zeros((len(images), width, 2))
            means[:, :slots] = given[images, :width]
        unit_heat = square_heat / square_heat.sum(axis=(1, 2), keepdims=True)
        mixture = _start(xp, unit_heat, means, xp.arange(width) < fitted[images, None], variance_floor)
        _expectation_maximisation(xp, unit_heat, mixture, images, result, max_iter, tol, variance_floor)
    unused = ~used
    result.means[unused] = math.nan
    result.variances[unused] = math.nan
    return result


def _slots(requested: Array, max_components: int | None) -> int:
    if max_components is not None:
        return max_components
    # Counts that the caller has on the host are read there, which waits for no device.
    numbers = get_array_module(requested).asarray(requested)
    return max(0, int(numbers.max())) if len(numbers) else 0


def _by_width(xp: ModuleType, fitted: Array) -> Iterator[tuple[int, Array]]:
    """Yield the images that have components by the width of their matrices, which is their own number's alone.

    A BLAS sums in another order for another width: an image's last bits would depend on its neighbours in the batch.
    """
    images, width = xp.flatnonzero(fitted), _LEAST_WIDTH
    while len(images):
        fits = fitted[images] <= width
        if bool(fits.any()):
            yield width, images[fits]
        images, width = images[~fits], 2 * width


def _square_heat(xp: ModuleType, heat: Array) -> Array:
    """Scale each heatmap to peak 1 and pad it with 0 to a square (n, S, S), so that rows and columns share arrays.

    The sum of unscaled weights, if they are very large, would overflow, and that of very small ones lose its bits.
    """
    count, height, width = heat.shape
    size = max(height, width)
    square = xp.zeros((count, size, size))
    square[:, :height, :width] = heat / heat.max(axis=(1, 2), keepdims=True)
    return square


def _farthest_first(xp: ModuleType, heat: Array, slots: int) -> Array:
    """Density-weighted farthest-first start (n, slots, 2) as (x, y).

    Of heat of peak 1, not of sum 1: a sum depends on its order, and a last bit decides between equally good cells.
    """
    count, size, _ = heat.shape
    flat = heat.reshape(count, -1)
    position = xp.arange(size, dtype=xp.float64)
    means = xp.zeros((count, slots, 2))
    nearest = xp.ones_like(flat)
    for k in range(slots):
        y, x = xp.divmod((flat * nearest).argmax(axis=1), size)
        means[:, k, 0], means[:, k, 1] = x, y
        squared = (position - y[:, None])[:, :, None] ** 2 + (position - x[:, None])[:, None, :] ** 2
        squared = squared.reshape(count, -1)
        nearest = squared if k == 0 else xp.minimum(nearest, squared)
    return means


def _means_of_slots(xp: ModuleType, means_init: Array, shape: tuple[int, int, int]) -> Array:
    means = xp.ascontiguousarray(means_init, dtype=xp.float64)
    if means.shape != shape:
        raise ValueError(f"means_init must have shape {shape}, (N, K, 2), but has {means.shape}.")
    return means


def _given_means(xp: ModuleType, means_init: Array, used: Array) -> Array:
    means = _means_of_slots(xp, means_init, (*used.shape, 2))
    if not bool(xp.isfinite(means[used]).all()):
        raise ValueError("means_init must be finite for every component that is fitted.")
    return means


def _start(xp: ModuleType, heat: Array, means: Array, used: Array, variance_floor: float) -> _Mixture:
    """Mixtures with the given means (n, K, 2), the heat's variance over the components, and equal weights."""
    count = used.sum(axis=1)
    position = xp.arange(heat.shape[1], dtype=xp.float64)
    marginals = xp.stack([heat.sum(axis=2), heat.sum(axis=1)], axis=1)
    centre = (marginals * position).sum(axis=2, keepdims=True)
    spread = (marginals * (position - centre) ** 2).sum(axis=2) / count[:, None]
    return _Mixture(
        mean=xp.where(used[:, None, :], means[:, :, ::-1].transpose(0, 2, 1), 0.0),
        variance=xp.where(used[:, None, :], xp.maximum(spread, variance_floor)[:, :, None], 1.0),
        mixing=used / count[:, None],
    )


def _empty_result(xp: ModuleType, used: Array, fitted: Array) -> GaussianMixtures:
    """Result arrays to be filled in, as they stand for an image without components."""
    return GaussianMixtures(
        means=xp.full((*used.shape, 2), math.nan),
        variances=xp.full((*used.shape, 2), math.nan),
        mixing=xp.zeros(used.shape),
        n_components_=fitted,
        n_iter=xp.zeros(len(used), dtype=xp.int64),
        converged=fitted == 0,
        log_likelihood=xp.full(len(used), math.nan),
    )


def _expectation_maximisation(
    xp: ModuleType,
    heat: Array,
    mixture: _Mixture,
    images: Array,
    result: GaussianMixtures,
    max_iter: int,
    tol: float,
    variance_floor: float,
) -> None:
    """Iterate EM on ``heat`` (n, S, S), writing each image's mixture to row ``images[i]`` of ``result`` when done."""
    position = xp.arange(heat.shape[1], dtype=xp.float64)
    powers = xp.stack([xp.ones_like(position), position, position**2], axis=1)
    previous = xp.full(len(heat), -math.inf)
    running = xp.ones(len(heat), dtype=bool)
    for iteration in range(1, max_iter + 1):
        marginals, likelihood = _expectation(xp, heat, mixture, position)
        mixture = _maximisation(xp, marginals @ powers, mixture, variance_floor)
        converged = abs(likelihood - previous) < tol
        previous = likelihood
        finished = running & converged if iteration < max_iter else running
        if not bool(finished.any()):
            continue
        _store(result, images[finished], mixture.take(finished), iteration, converged[finished], likelihood[finished])
        running = running & ~finished
        left = int(running.sum())
        if not left:
            return
        if left <= (1 - _DROP_SHARE) * len(running):
            heat, mixture = heat[running], mixture.take(running)
            images, previous, running = images[running], previous[running], running[running]


def _store(
    result: GaussianMixtures, images: Array, mixture: _Mixture, iteration: int, converged: Array, likelihood: Array
) -> None:
    slots = min(result.mixing.shape[1], mixture.mixing.shape[1])
    result.means[images, :slots] = mixture.mean[:, ::-1, :slots].transpose(0, 2, 1)
    result.variances[images, :slots] = mixture.variance[:, ::-1, :slots].transpose(0, 2, 1)
    result.mixing[images, :slots] = mixture.mixing[:, :slots]
    result.n_iter[images] = iteration
    result.converged[images] = converged
    result.log_likelihood[images] = likelihood


def _expectation(xp: ModuleType, heat: Array, mixture: _Mixture, position: Array) -> tuple[Array, Array]:
    """Share the heat out among the components.

    Returns the heat of each component by row and by column, (n, 2, K, S), and the mean log-likelihood (n,).
    """
    squared = (position - mixture.mean[..., None]) ** 2
    factors = xp.exp(squared * (-0.5 / mixture.variance)[..., None])
    scale = mixture.mixing / (2 * math.pi * xp.sqrt(mixture.variance[:, 0] * mixture.variance[:, 1]))
    factors[:, 0] *= scale[..., None]
    rows, columns = factors[:, 0], factors[:, 1]
    density = rows.transpose(0, 2, 1) @ columns
    underflow = None
    if float(density.min()) < _SAFE_DENSITY:
        low = density < _SAFE_DENSITY
        underflow = xp.flatnonzero((low & (heat > 0)).any(axis=(1, 2)))
        density[low] = 1.0  # cells without heat, and images that are done anew below
    ratio = heat / density
    marginals = xp.empty_like(factors)
    xp.matmul(columns, ratio.transpose(0, 2, 1), out=marginals[:, 0])
    xp.matmul(rows, ratio, out=marginals[:, 1])
    marginals *= factors
    likelihood = xp.einsum("nij,nij->n", heat, xp.log(density))
    if underflow is not None and len(underflow):
        marginals[underflow], likelihood[underflow] = _expectation_in_log_space(
            xp, heat[underflow], mixture.take(underflow), squared[underflow]
        )
    return marginals, likelihood


def _expectation_in_log_space(xp: ModuleType, heat: Array, mixture: _Mixture, squared: Array) -> tuple[Array, Array]:
    """Return what ``_expectation`` does, cell by cell, relative to the greatest component of each cell."""
    exponent = squared * (-0.5 / mixture.variance)[..., None]
    alive = mixture.mixing > 0
    log_mixing = xp.where(alive, xp.log(xp.where(alive, mixture.mixing, 1.0)), -math.inf)
    log_scale = log_mixing - math.log(2 * math.pi) - 0.5 * xp.log(mixture.variance).sum(axis=1)
    log_parts = (log_scale[..., None] + exponent[:, 0])[..., None] + exponent[:, 1][:, :, None, :]
    greatest = log_parts.max(axis=1)
    parts = xp.exp(log_parts - greatest[:, None])
    total = parts.sum(axis=1)
    shares = parts * (heat / total)[:, None]
    likelihood = (heat * (greatest + xp.log(total))).sum(axis=(1, 2))
    return xp.stack([shares.sum(axis=3), shares.sum(axis=2)], axis=1), likelihood


def _maximisation(xp: ModuleType, moments: Array, mixture: _Mixture, variance_floor: float) -> _Mixture:
    """Update the mixture from the moments (n, 2, K, 3) of each component's heat: total, first and second."""
    total = moments[..., 0]
    held = total > 0
    divisor = xp.where(held, total, 1.0)
    mean = moments[..., 1] / divisor
    variance = xp.maximum(moments[..., 2] / divisor - mean**2, variance_floor)
    return _Mixture(
        mean=xp.where(held, mean, mixture.mean),
        variance=xp.where(held, variance, mixture.variance),
        mixing=total[:, 1] / total[:, 1].sum(axis=1, keepdims=True),
    )


def _on_device(
    device: Device,
    heat: Array,
    requested: Array,
    slots: int,
    settings: tuple[Any, Any, Any],
    means_init: Array | None,
) -> GaussianMixtures:
    """Launch the kernel in ``cuda/weighted_gmm.cu``."""
    xp = get_array_module(heat)
    count, height, width = heat.shape
    mixtures = GaussianMixtures(
        means=xp.empty((count, slots, 2)),
        variances=xp.empty((count, slots, 2)),
        mixing=xp.empty((count, slots)),
        n_components_=xp.empty(count, dtype=xp.int64),
        n_iter=xp.empty(count, dtype=xp.int64),
        converged=xp.empty(count, dtype=bool),
        log_likelihood=xp.empty(count),
    )
    starts = no_array(xp) if means_init is None else _means_of_slots(xp, means_init, (count, slots, 2))
    device.launch(
        "weighted_gmm",
        heat,
        requested,
        starts,
        *map(xp.int32, (height, width, slots)),
        *settings,
        *vars(mixtures).values(),
        blocks=count,
        tasks=height * width,
        doubles=3 * height * width + slots * (6 + 2 * (height + width)),
    )
    return mixtures
