"""The signature dictionary: which feature maps speak for a class (paper 3.2 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pc_engine.errors import ModelError
from pc_engine.fitted.fitted_images import FittedImages, fitted_images
from pc_engine.fitted.tensor_file import TensorFileKind, building, read_tensors, write_tensors
from pc_engine.hardware.device_arrays import DeviceConstants
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import Manifest

_KIND = TensorFileKind(noun="signature dictionary", format="pc-engine-signatures-1", remedy="pc-engine fit-signatures")
_RANKING = "ranking."
_IMAGES = "images"


@dataclass(frozen=True, eq=False)
class SignatureDictionary:
    """Per class, the feature maps of each convolution tap in the order of their relevance (paper 3.2, ``dict[K]``).

    Attributes
    ----------
    ranking
        Tap name (``"conv_last"``, ``"conv_prev"``) to indices of its maps, best first, shape (n_classes, depth),
        int32. Rows of classes never seen hold the ranking over all images.
    known
        Shape (n_classes,), bool: whether an image of the class was seen.
    images
        What it was made of; None where that is not known.

    Raises
    ------
    ModelError
        If the arrays do not fit each other.
    """

    ranking: Mapping[str, np.ndarray]
    known: np.ndarray
    images: FittedImages | None = None
    _constants: DeviceConstants = field(default_factory=DeviceConstants, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.ranking or self.known.ndim != 1 or self.known.dtype != np.bool_:
            raise ModelError("A signature dictionary needs a ranking for at least one tap and one flag per class.")
        for tap, ranking in self.ranking.items():
            if ranking.ndim != 2 or ranking.dtype != np.int32 or len(ranking) != len(self.known) or not ranking.size:
                raise ModelError(
                    f"The signatures of '{tap}' have shape {ranking.shape} and type {ranking.dtype}, expected "
                    f"{len(self.known)} classes by a depth of at least 1, type int32."
                )
            if ranking.min() < 0:
                raise ModelError(f"The signatures of '{tap}' name the map {ranking.min()}, expected 0 or more.")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.known)

    def lookup(self, tap: str, class_ids: Array, k: int) -> Array:
        """Return the ``k`` best maps of each image's class.

        Parameters
        ----------
        tap
            Name of a convolution tap.
        class_ids
            Class of each image, shape (N,), integers in 0..n_classes-1, NumPy or CuPy.
        k
            Number of maps (paper 4: 20 of the last layer, 50 of the one before).

        Returns
        -------
        Array
            Map indices, shape (N, k), int32, best first, on the array library of ``class_ids``.

        Raises
        ------
        ModelError
            If the tap has no signatures, or fewer than ``k`` maps were kept.
        """
        if tap not in self.ranking:
            raise ModelError(
                f"There are no signatures for the tap '{tap}' (only for {sorted(self.ranking)}): make them with "
                f"'{_KIND.remedy}'."
            )
        depth = self.ranking[tap].shape[1]
        if not 1 <= k <= depth:
            raise ModelError(
                f"{k} maps of '{tap}' are asked for, but the signatures keep {depth} of them: ask for 1 to {depth}, or "
                f"make deeper ones with '{_KIND.remedy}'."
            )
        ranking = self._constants.get(get_array_module(class_ids), tap, self.ranking[tap])
        return ranking[class_ids, :k]

    def save(self, path: Path) -> None:
        """Write the dictionary to ``path`` as safetensors: whole, or not at all."""
        tensors = {_RANKING + tap: ranking for tap, ranking in self.ranking.items()} | {"known": self.known}
        header: dict[str, object] = {"taps": list(self.ranking)}
        if self.images is not None:
            tensors[_IMAGES] = self.images.digests
            header[_IMAGES] = self.images.header()
        write_tensors(path, _KIND, tensors, header)


def load_signatures(path: Path) -> SignatureDictionary:
    """Read a dictionary written by :meth:`SignatureDictionary.save`.

    Raises
    ------
    ModelError
        If the file is absent, damaged, of another kind, or its arrays do not fit each other.
    """
    tensors, header = read_tensors(path, _KIND)
    with building(path, _KIND, "taps"):
        ranking = {str(tap): tensors[f"{_RANKING}{tap}"] for tap in header["taps"]}
        images = fitted_images(tensors[_IMAGES], header[_IMAGES]) if _IMAGES in header else None
        return SignatureDictionary(ranking, tensors["known"], images)


def check_signatures(signatures: SignatureDictionary, manifest: Manifest) -> None:
    """Raise :class:`ModelError` unless ``signatures`` has the classes of ``manifest`` and names maps of its taps."""
    if signatures.n_classes != manifest.n_classes:
        raise ModelError(
            f"The signatures hold {signatures.n_classes} classes, but the network '{manifest.name}' has "
            f"{manifest.n_classes}: make them for this model with '{_KIND.remedy}'."
        )
    for tap, ranking in signatures.ranking.items():
        if tap not in manifest.taps:
            raise ModelError(
                f"The signatures are for the tap '{tap}', which the model '{manifest.name}' does not have (it has "
                f"{sorted(manifest.taps)}): make them for this model with '{_KIND.remedy}'."
            )
        n_maps, largest = manifest.taps[tap].shape[0], int(ranking.max())
        if largest >= n_maps:
            raise ModelError(
                f"The signatures name the map {largest} of '{tap}', but the network gives {n_maps} maps there: make "
                f"them for this model with '{_KIND.remedy}'."
            )
