"""Gather the features of a whole data set from batches, and tell which of them are maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pc_engine.errors import DataError, ModelError
from pc_engine.kernels.array_module import Array, to_host
from pc_engine.manifest import Manifest


def map_widths(manifest: Manifest) -> dict[str, int]:
    """Return the width of a map in cells, by the names of those count features that are maps, (C, H, W).

    Three axes may be others, such as (H, W, C): the shape of a map is that of the picture, to less than a cell.
    """
    taps = {name: manifest.taps[name] for name in manifest.count_features}
    maps = {name: tap.shape for name, tap in taps.items() if tap.is_maps}
    rows_per_column = manifest.input.height / manifest.input.width
    return {name: width for name, (_, height, width) in maps.items() if abs(height - width * rows_per_column) < 1}


class FeatureCollector:
    """Keeps chosen taps of every image in one preallocated matrix per tap.

    Parameters
    ----------
    features
        Names of the taps to keep.
    capacity
        Largest number of images that will come; fewer may (a picture that cannot be read has no features).

    Notes
    -----
    The matrices are allocated at the first batch, 4 bytes a value: 33,280 values (paper 3.1) of 5,520 images take
    735 MB. The operating system hands out the pages as they are filled.
    """

    def __init__(self, features: Sequence[str], capacity: int) -> None:
        self._names = tuple(features)
        self._capacity = capacity
        self._rows: dict[str, np.ndarray] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, taps: Mapping[str, Array]) -> None:
        """Keep one batch.

        Parameters
        ----------
        taps
            Tap name to activations, shape (N, ...), NumPy or CuPy, any float dtype; others than the chosen are
            ignored. The values are copied: the caller may reuse its buffers.

        Raises
        ------
        ModelError
            If a chosen tap is missing or its size differs from that of earlier batches.
        DataError
            If more images come than ``capacity``.
        """
        missing = [name for name in self._names if name not in taps]
        if missing:
            raise ModelError(f"The network gives the taps {sorted(taps)}, but the counter needs {missing} as well.")
        batch = {name: to_host(taps[name]) for name in self._names}
        batch = {name: tap.reshape(len(tap), -1) for name, tap in batch.items()}
        n = len(batch[self._names[0]])
        if self._n + n > self._capacity:
            raise DataError(
                f"{self._n + n} images came where {self._capacity} were announced: announce as many as there are."
            )
        for name, tap in batch.items():
            if name not in self._rows:
                self._rows[name] = np.empty((self._capacity, tap.shape[1]), np.float32)
            if tap.shape != (n, self._rows[name].shape[1]):
                raise ModelError(
                    f"The tap '{name}' came with shape {tap.shape}, expected {(n, self._rows[name].shape[1])} as in "
                    f"the batch before and in the other taps."
                )
        for name, tap in batch.items():
            self._rows[name][self._n : self._n + n] = tap
        self._n += n

    def features(self) -> dict[str, np.ndarray]:
        """Return the rows gathered so far by tap, (n, D) float32, as views: nothing is copied."""
        return {name: rows[: self._n] for name, rows in self._rows.items()}
