"""Batched operations on feature maps and heatmaps: arrays in, arrays out.

Every function takes NumPy or CuPy arrays, works where they live and returns arrays of the same kind. On a device most
are one kernel (`pc_engine.kernels.cuda`), and none waits for it unless its docstring says so. The result for
an image does not depend on the other images of its batch.
"""

from pc_engine.kernels.array_module import get_array_module, to_host
from pc_engine.kernels.channel_max import channel_max
from pc_engine.kernels.cluster_extent import ClusterBoxes, cluster_boxes
from pc_engine.kernels.cluster_moments import ClusterMoments, cluster_moments
from pc_engine.kernels.dbscan import WeightedDbscan, dbscan
from pc_engine.kernels.density_peaks import DensityPeaks, density_peaks
from pc_engine.kernels.depthwise_convolution import depthwise_convolution
from pc_engine.kernels.finite_images import finite_images
from pc_engine.kernels.matrix_products import matrix_products
from pc_engine.kernels.max_pool import max_pool
from pc_engine.kernels.mean_heatmap import mean_heatmap
from pc_engine.kernels.merge_clusters import MergedClusters, merge_clusters
from pc_engine.kernels.normalise import normalise_heatmap
from pc_engine.kernels.pixel_columns import pixel_columns
from pc_engine.kernels.pixel_convolution import pixel_convolution
from pc_engine.kernels.resize_maps import resize_maps
from pc_engine.kernels.scale_to_peak import scale_to_peak
from pc_engine.kernels.select_maps import select_maps
from pc_engine.kernels.selected_heatmap import selected_heatmap
from pc_engine.kernels.sort_rows import sort_rows
from pc_engine.kernels.to_planes import to_planes
from pc_engine.kernels.top_weights import top_weights
from pc_engine.kernels.unit_products import unit_products
from pc_engine.kernels.weighted_gmm import GaussianMixtures, weighted_gmm
from pc_engine.kernels.weighted_heatmap import weighted_heatmap

__all__ = [
    "ClusterBoxes",
    "ClusterMoments",
    "DensityPeaks",
    "GaussianMixtures",
    "MergedClusters",
    "WeightedDbscan",
    "channel_max",
    "cluster_boxes",
    "cluster_moments",
    "dbscan",
    "density_peaks",
    "depthwise_convolution",
    "finite_images",
    "get_array_module",
    "matrix_products",
    "max_pool",
    "mean_heatmap",
    "merge_clusters",
    "normalise_heatmap",
    "pixel_columns",
    "pixel_convolution",
    "resize_maps",
    "scale_to_peak",
    "select_maps",
    "selected_heatmap",
    "sort_rows",
    "to_host",
    "to_planes",
    "top_weights",
    "unit_products",
    "weighted_gmm",
    "weighted_heatmap",
]
