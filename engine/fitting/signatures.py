"""Build the signature dictionary from images whose class is known (paper 3.2 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pc_engine.errors import DataError, ModelError, UsageError
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.kernels.array_module import Array, to_host
from pc_engine.kernels.channel_max import channel_max
from pc_engine.manifest import Manifest
from pc_engine.modes import settings_for

#: Taps that the signatures select maps from (paper 4: the last two convolutional layers).
SIGNATURE_TAPS = ("conv_last", "conv_prev")

#: Ways to rank the feature maps of a class.
RANKS = ("max", "contrast")


def check_ranking(rank: str) -> None:
    """Raise UsageError if there is no such way to rank."""
    if rank not in RANKS:
        raise UsageError(f"There is no ranking '{rank}': choose one of {', '.join(RANKS)}.")


def check_depth(depth: int | None, manifest: Manifest) -> None:
    """Raise UsageError if signatures of this depth have fewer maps than mode p2c takes of them in this model."""
    if depth is None:
        return
    settings = settings_for(manifest).p2c
    for name, top in (("conv_last", settings.top_last), ("conv_prev", settings.top_prev)):
        taken = min(top, manifest.taps[name].shape[0]) if name in manifest.taps else 0
        if depth < max(taken, 1):
            raise UsageError(
                f"Signatures of depth {depth} are too shallow for '{manifest.name}', whose mode p2c takes {taken} maps "
                f"of '{name}': keep at least as many."
            )


class SignatureAccumulator:
    """Adds up feature-map activations per class, batch by batch, and ranks the maps at the end.

    Parameters
    ----------
    n_classes
        Number of logits of the network.
    rank
        ``"max"``: by the spatial maximum of a map, averaged over the images of the class (paper 4: "max pooling over
        the 512 feature maps … sorted according to average activations").

        ``"contrast"``: by the spatial mean of a map, averaged over the images of the class, minus the same average
        over all images. For layers whose activation saturates, such as ReLU6: there the maximum of most maps is the
        cap on most images and ranks nothing, while the mean still grows with the area that responds; and what
        responds to every image says nothing of a class, which the subtraction removes.
    taps
        Convolution taps to rank, each (N, C, H, W).

    Notes
    -----
    Sums are kept in float64 on the host, n_classes × C values a tap: only (N, C) values a batch leave the device.
    """

    def __init__(self, n_classes: int, rank: str = "max", taps: Sequence[str] = SIGNATURE_TAPS) -> None:
        check_ranking(rank)
        self._rank = rank
        self._taps = tuple(taps)
        self._images = np.zeros(n_classes, np.int64)
        self._sums: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._images.sum())

    def add(self, taps: Mapping[str, Array], class_ids: Array) -> None:
        """Add one batch.

        Parameters
        ----------
        taps
            Tap name to feature maps, (N, C, H, W), NumPy or CuPy; others than the ranked ones are ignored.
        class_ids
            Class of each image, (N,) integers in 0..n_classes-1.

        Raises
        ------
        ModelError
            If a ranked tap is missing or has another form.
        DataError
            If a class id is out of range, or an activation is not finite.
        """
        ids = to_host(class_ids)
        n_classes = len(self._images)
        if len(ids) and not (ids.min() >= 0 and ids.max() < n_classes):
            raise DataError(
                f"The class ids run from {ids.min()} to {ids.max()}, but the network has {n_classes} classes "
                f"(0 to {n_classes - 1}): match the data's classes to the network's first."
            )
        for name in self._taps:
            if name not in taps or taps[name].ndim != 4 or len(taps[name]) != len(ids):
                found = f"has shape {taps[name].shape}" if name in taps else f"is not among {sorted(taps)}"
                raise ModelError(
                    f"Signatures of '{name}' need its feature maps, (N, C, H, W) with N = {len(ids)}, but it {found}."
                )
        batch = {name: to_host(self._activations(taps[name])).astype(np.float64) for name in self._taps}
        for name, activations in batch.items():
            if not np.isfinite(activations).all():
                raise DataError(
                    f"The tap '{name}' holds values that are not finite: run the network in a higher precision."
                )
        for name, activations in batch.items():
            sums = self._sums.setdefault(name, np.zeros((n_classes, activations.shape[1])))
            np.add.at(sums, ids, activations)
        np.add.at(self._images, ids, 1)

    def _activations(self, maps: Array) -> Array:
        """Return one value a map, (N, C, H, W) to (N, C)."""
        if self._rank == "max":
            return channel_max(maps)
        with np.errstate(over="ignore"):  # which is said above
            return maps.mean(axis=(2, 3), dtype=np.float32)  # float16 sums of a whole map may overflow

    def finish(self, depth: int | None = None) -> SignatureDictionary:
        """Rank the maps of each class.

        Parameters
        ----------
        depth
            Number of maps to keep per class and tap, at most; all where None.

        Returns
        -------
        SignatureDictionary
            Classes never seen get the ranking over all images. Equal maps keep their order in the network.

        Raises
        ------
        DataError
            If no image was added.
        """
        if not len(self):
            raise DataError("No class-labelled image was added, so there is nothing to rank: give images with classes.")
        known = self._images > 0
        ranking = {name: self._ranked(sums, known)[:, :depth].copy() for name, sums in self._sums.items()}
        return SignatureDictionary(ranking, known)

    def _ranked(self, sums: np.ndarray, known: np.ndarray) -> np.ndarray:
        overall = sums.sum(axis=0) / len(self)
        scores = sums / np.maximum(self._images, 1)[:, None]
        if self._rank == "contrast":
            scores -= overall
        scores[~known] = overall
        return np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
