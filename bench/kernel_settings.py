"""The kernels under the settings that they are checked and measured with: those of the modes, or near them."""

from __future__ import annotations

from functools import partial

from pc_engine.kernels import cluster_boxes, dbscan, density_peaks, merge_clusters, weighted_gmm

EPS, MIN_WEIGHT = 1.5, 3
CUTOFF, MIN_DENSITY, MIN_DISTANCE, TRIM = 1.0, 0.5, 4.0, 0.5
PROMINENCE = 0.2
VALLEY_POWER, SHAPE_FLOOR, REACH = 3, 0.1225, 5.0
MAX_ITER, TOL = 100, 1e-3

fit_mixtures = partial(weighted_gmm, max_iter=MAX_ITER, tol=TOL)
find_peaks = partial(density_peaks, cutoff=CUTOFF, min_density=MIN_DENSITY, min_distance=MIN_DISTANCE)
find_all_peaks = partial(density_peaks, cutoff=CUTOFF, min_density=0, min_distance=0)
find_prominent_peaks = partial(density_peaks, cutoff=CUTOFF, min_density=MIN_DENSITY, prominence=PROMINENCE)
find_boxes = partial(cluster_boxes, trim=TRIM)
unite_clusters = partial(merge_clusters, valley_power=VALLEY_POWER, variance_floor=SHAPE_FLOOR, reach=REACH)
find_dense_cells = partial(dbscan, eps=EPS, min_weight=MIN_WEIGHT)
