"""The count SVM: how many objects, from L2-normalised taps of the network (paper 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pc_engine.errors import DataError, ModelError, UsageError
from pc_engine.fitted.cluster_likelihood import ClusterLikelihood, cluster_likelihood
from pc_engine.fitted.fitted_images import FittedImages, fitted_images
from pc_engine.fitted.open_count import OpenCount, open_count
from pc_engine.fitted.tap_products import size_sentence, tap_products
from pc_engine.fitted.tensor_file import TensorFileKind, building, read_tensors, write_tensors
from pc_engine.hardware.device_arrays import DeviceConstants
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import Manifest

#: Count labels of the paper: Cmax is "4+", at least four objects.
DEFAULT_LABELS = ("0", "1", "2", "3", "4+")
#: The largest last label: nobody has two images of each of so many counts.
LARGEST_LABEL = 1_000
# Of a count label: more are no count, and no machine's number has room for them.
_MOST_DIGITS = 9

_KIND = TensorFileKind(noun="count SVM", format="pc-engine-counter-1", remedy="pc-engine fit-counter")
_WEIGHTS = "weights."
_CLUSTERS = "clusters"
_BEYOND = "beyond"
_IMAGES = "images"


@dataclass(frozen=True, eq=False)
class CountSVM:
    """A linear one-vs-rest SVM over the concatenation of L2-normalised taps (paper 3.1).

    Attributes
    ----------
    features
        Names of the taps, in the order of the concatenation.
    labels
        One count label per score; a last one that ends in ``"+"`` is open-ended.
    weights
        Tap name to weights, shape (L, D_tap), float32.
    bias
        Shape (L,), float32.
    clusters
        What a number of clusters says about the labels, for mode combined; None where it says nothing, or was not
        asked.
    beyond
        How many objects an image under the open-ended label shows, for mode combined; None where that was not learnt.
    images
        What it was fitted on; None where that is not known.

    Raises
    ------
    ModelError
        If the arrays do not fit the features and labels, or hold values that are not finite.
    """

    features: tuple[str, ...]
    labels: tuple[str, ...]
    weights: Mapping[str, np.ndarray]
    bias: np.ndarray
    clusters: ClusterLikelihood | None = None
    beyond: OpenCount | None = None
    images: FittedImages | None = None
    _constants: DeviceConstants = field(default_factory=DeviceConstants, init=False, repr=False)
    _joint_constants: DeviceConstants = field(default_factory=DeviceConstants, init=False, repr=False)

    def __post_init__(self) -> None:
        label_counts(self.labels)
        n_labels = len(self.labels)
        if set(self.weights) != set(self.features) or not self.features:
            raise ModelError(
                f"A count SVM has features {list(self.features)} but weights for {sorted(self.weights)}: "
                f"give one weight matrix per feature, at least one."
            )
        for name, weights in self.weights.items():
            _check_array(f"weights of '{name}'", weights, n_labels, ndim=2)
        _check_array("bias", self.bias, n_labels, ndim=1)
        if self.clusters is not None and self.clusters.log_likelihood.shape[1] != n_labels:
            raise ModelError(
                f"A count SVM of {n_labels} labels has likelihoods of clusters for "
                f"{self.clusters.log_likelihood.shape[1]}: fit it again."
            )
        if self.beyond is not None and not self._goes_on(self.beyond):
            raise ModelError(
                f"The count SVM's count beyond its labels {list(self.labels)} does not go on from the last one, or "
                "reads other features: fit it again."
            )

    def _goes_on(self, beyond: OpenCount) -> bool:
        sizes = {name: weights.shape[1] for name, weights in self.weights.items()}
        return (
            is_open(self.labels[-1])
            and beyond.floor == last_count(self.labels)
            and {name: weights.shape[1] for name, weights in beyond.weights.items()} == sizes
        )

    def scores(self, taps: Mapping[str, Array]) -> Array:
        """Score every label for every image.

        Parameters
        ----------
        taps
            Tap name to activations, shape (N, ...) with D_tap values an image, any float dtype, NumPy or CuPy. Raw or
            already normalised: normalising twice changes nothing. Taps that are no feature are ignored.

        Returns
        -------
        Array
            Shape (N, L), float32, on the array library of the taps. The largest score names the label.

        Raises
        ------
        ModelError
            If a feature is missing or has another number of values.
        """
        products = tap_products(taps, {name: self.weights[name] for name in self.features}, self._constants)
        return products + self._bias(products)

    def scores_and_counts(self, taps: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """Return `scores`, up to rounding, and what `beyond` says of each image, of one pass over the taps.

        That is how many each image under the open-ended label shows, (N,) int64; None where `beyond` is.
        """
        if self.beyond is None:
            return self.scores(taps), None
        products = tap_products(taps, self._joint, self._joint_constants)
        labels, beyond = products[:, : len(self.labels)], products[:, len(self.labels)]
        return labels + self._bias(products), self.beyond.counts(beyond)

    @cached_property
    def _joint(self) -> dict[str, np.ndarray]:
        """By tap the weights of the labels, and those of `beyond` as one more row."""
        assert self.beyond is not None
        return {name: np.concatenate([self.weights[name], self.beyond.weights[name]]) for name in self.features}

    def _bias(self, products: Array) -> Array:
        return self._constants.get(get_array_module(products), None, self.bias)

    def save(self, path: Path) -> None:
        """Write the SVM to ``path`` as safetensors: whole, or not at all."""
        tensors = {_WEIGHTS + name: self.weights[name] for name in self.features} | {"bias": self.bias}
        header: dict[str, object] = {"features": list(self.features), "labels": list(self.labels)}
        if self.clusters is not None:
            tensors[_CLUSTERS] = self.clusters.log_likelihood
            header[_CLUSTERS] = self.clusters.header()
        if self.beyond is not None:
            tensors |= {f"{_BEYOND}.{name}": self.beyond.weights[name] for name in self.features}
            header[_BEYOND] = self.beyond.header()
        if self.images is not None:
            tensors[_IMAGES] = self.images.digests
            header[_IMAGES] = self.images.header()
        write_tensors(path, _KIND, tensors, header)


def load_counter(path: Path) -> CountSVM:
    """Read a count SVM written by :meth:`CountSVM.save`.

    Raises
    ------
    ModelError
        If the file is absent, damaged, of another kind, or its arrays do not fit each other.
    """
    tensors, header = read_tensors(path, _KIND)
    with building(path, _KIND, "features and labels"):
        features = tuple(str(name) for name in header["features"])
        labels = tuple(str(label) for label in header["labels"])
        weights = {name: tensors[_WEIGHTS + name] for name in features}
        clusters = cluster_likelihood(tensors[_CLUSTERS], header[_CLUSTERS]) if _CLUSTERS in header else None
        beyond = None
        if _BEYOND in header:
            beyond = open_count({name: tensors[f"{_BEYOND}.{name}"] for name in features}, header[_BEYOND])
        images = fitted_images(tensors[_IMAGES], header[_IMAGES]) if _IMAGES in header else None
        return CountSVM(features, labels, weights, tensors["bias"], clusters, beyond, images)


def check_counter(counter: CountSVM, manifest: Manifest) -> None:
    """Raise :class:`ModelError` unless every feature of ``counter`` is a tap of ``manifest`` with as many values."""
    for name in counter.features:
        if name not in manifest.taps:
            raise ModelError(
                f"The counter reads the tap '{name}', which the model '{manifest.name}' does not have (it has "
                f"{sorted(manifest.taps)}): fit one for this model with 'pc-engine fit-counter'."
            )
        expected, found = counter.weights[name].shape[1], math.prod(manifest.taps[name].shape)
        if expected != found:
            raise ModelError(size_sentence(name, expected, found))


def _check_array(what: str, array: np.ndarray, n_labels: int, *, ndim: int) -> None:
    if array.ndim != ndim or array.shape[0] != n_labels or array.dtype != np.float32:
        raise ModelError(
            f"The {what} of a count SVM have shape {array.shape} and type {array.dtype}, expected {ndim} dimension(s), "
            f"the {n_labels} labels first, and type float32."
        )
    if not np.isfinite(array).all():
        raise ModelError(f"The {what} of a count SVM hold values that are not finite: fit it again.")


def label_counts(labels: Sequence[str]) -> np.ndarray:
    """Return the count that each label stands for, (L,) int64; an open-ended ``"4+"`` stands for 4.

    Raises
    ------
    ModelError
        If a label is no count or a huge one, the counts do not grow, or one before the last is open-ended.
    """
    texts = [*labels[:-1], labels[-1].removesuffix("+")] if labels else []
    if len(texts) < 2 or not all(text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS for text in texts):
        raise ModelError(
            f"The count labels {list(labels)!s:.200} are not two or more whole numbers of up to {_MOST_DIGITS} digits, "
            f"where only the last may end in '+': name them as in {list(DEFAULT_LABELS)}."
        )
    counts = np.array([int(text) for text in texts], dtype=np.int64)
    if (np.diff(counts) <= 0).any():
        raise ModelError(
            f"The count labels {list(labels)!s:.200} do not increase: name them as in {list(DEFAULT_LABELS)}."
        )
    return counts


def last_count(labels: Sequence[str]) -> int:
    """Return the largest of `label_counts`, which is the least that an open-ended label stands for."""
    return int(label_counts(labels)[-1])


def is_open(label: str) -> bool:
    """Whether a count label is open-ended: it stands for "at least so many"."""
    return label.endswith("+")


def labels_up_to(last: int) -> tuple[str, ...]:
    """Return the labels of all counts below ``last``, and one for it and all above: 4 gives `DEFAULT_LABELS`.

    Raises
    ------
    UsageError
        If ``last`` is below 1 or above `LARGEST_LABEL`.
    """
    if last < 1:
        raise UsageError(f"--max-count is {last}, expected at least 1.")
    if last > LARGEST_LABEL:
        raise UsageError(f"--max-count is {last:,}, expected at most {LARGEST_LABEL:,}: a label needs images.")
    return (*map(str, range(last)), f"{last}+")


def count_label(count: int, labels: Sequence[str] = DEFAULT_LABELS) -> str:
    """Return the label of a count: 7 gives ``"4+"`` where that is the last label.

    Raises
    ------
    DataError
        If no label stands for the count.
    """
    counts = label_counts(labels)
    if is_open(labels[-1]) and count >= counts[-1]:
        return labels[-1]
    for label, value in zip(labels, counts, strict=True):
        if value == count:
            return label
    raise DataError(
        f"A count of {count} fits none of the labels {', '.join(labels)}: leave such images out, or add a label for it "
        f"(one that ends in '+' takes all larger counts)."
    )


def label_indices(counts: Sequence[int] | np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Return the index of the `count_label` of each count among the labels, (n,) int64."""
    values, place = np.unique(np.asarray(counts, np.int64), return_inverse=True)
    return np.array([labels.index(count_label(int(value), labels)) for value in values], np.int64)[place]


def row_label(count: int, labels: Sequence[str] = DEFAULT_LABELS) -> str:
    """Return the label of a count in a row, where a clustering may find a count that no label stands for."""
    return labels[-1] if is_open(labels[-1]) and count >= int(labels[-1][:-1]) else str(count)
