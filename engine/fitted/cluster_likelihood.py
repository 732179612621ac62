"""What a number of clusters says about the count: how probable it is where an image shows a count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pc_engine.errors import ModelError
from pc_engine.hardware.device_arrays import DeviceConstants
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.density_peaks import LEAST_DENSITY

#: The least and the greatest value of each of `PeakSettings`.
PEAK_LIMITS = {
    "cutoff": (0.01, 1000.0),
    "min_density": (0.0, 1.0),
    "min_distance": (0.0, 1000.0),
    "prominence": (0.0, 1.0),
}


@dataclass(frozen=True)
class PeakSettings:
    """How density peaks are told from noise; see `pc_engine.modes.P2CSettings`. Lengths in cells.

    Raises
    ------
    ModelError
        If a value is no number, or beyond `PEAK_LIMITS`, or they do not go together.
    """

    cutoff: float
    min_density: float
    min_distance: float
    prominence: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in PEAK_LIMITS.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:  # NaN fails, too
                raise ModelError(
                    f"The likelihoods of numbers of clusters were fitted with the {name} {value!r}, expected a number "
                    f"from {low:g} to {high:g}: fit the counter again with 'pc-engine fit-counter'."
                )
        if self.prominence and not self.min_density > LEAST_DENSITY:
            raise ModelError(
                "The likelihoods of numbers of clusters were fitted with a prominence and the min_density "
                f"{self.min_density!r}, expected one above {LEAST_DENSITY:g}: fit the counter again with 'pc-engine "
                "fit-counter'."
            )


@dataclass(frozen=True, eq=False)
class ClusterLikelihood:
    """The second witness of mode combined, beside the count SVM: the clusters of the class's heatmap.

    How far they are to be believed was seen on the images that the SVM was fitted on. Where p2c counts at random, all
    labels are about as likely whatever it finds, and the SVM decides alone.

    Attributes
    ----------
    log_likelihood
        Shape (K, L), float32: entry k, l is the logarithm of how probable k clusters are in an image of label l, times
        the weight of this witness, in units of the SVM's scores. The last row is that of K - 1 clusters and more.
    peaks
        What counted as a cluster.
    signatures
        Which heatmaps were clustered: see `pc_engine.modes.p2c_manifest.heat_name`.

    Raises
    ------
    ModelError
        If the table is none, or holds values that are not finite.
    """

    log_likelihood: np.ndarray
    peaks: PeakSettings
    signatures: str
    _constants: DeviceConstants = field(default_factory=DeviceConstants, init=False, repr=False)

    def __post_init__(self) -> None:
        table = self.log_likelihood
        if table.ndim != 2 or not table.size or table.dtype != np.float32 or not np.isfinite(table).all():
            raise ModelError(
                f"The likelihoods of numbers of clusters have shape {table.shape} and type {table.dtype}, expected a "
                f"table of finite values of type float32."
            )

    def added_to(self, scores: Array, clusters: Array) -> Array:
        """Return the SVM's scores (N, L) with what ``clusters`` (N,) of each image say added, float32.

        A refused image, which has -1 clusters, counts as one without.
        """
        xp = get_array_module(scores)
        table = self._constants.get(xp, None, self.log_likelihood)
        return scores + table[xp.clip(clusters, 0, len(table) - 1)]

    def header(self) -> dict[str, Any]:
        """Return all but the table as JSON values."""
        return {**vars(self.peaks), "signatures": self.signatures}


def cluster_likelihood(table: np.ndarray, header: Mapping[str, Any]) -> ClusterLikelihood:
    """Return the likelihood of a table (K, L) and its `ClusterLikelihood.header`, which may be a stranger's.

    Raises
    ------
    ModelError
        If either is not what it has to be.
    """
    try:
        # Counters of before know of no prominence.
        known = {name: header[name] for name in PEAK_LIMITS if name in header}
        signatures, peaks = header["signatures"], PeakSettings(**known)
    except (KeyError, TypeError):
        raise ModelError("The likelihoods of numbers of clusters lack their settings.") from None
    return ClusterLikelihood(table, peaks, str(signatures))
