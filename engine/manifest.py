"""``manifest.json``: what a model directory says about its network.

A model is a directory with ``model.onnx`` and ``manifest.json``, and optionally ``counter.safetensors`` (the count
SVM), ``signatures.safetensors`` (the class signatures) and ``model.int8.onnx`` and ``model.fp8.onnx`` (the network
quantised). The manifest names the taps, i.e. the intermediate tensors of the network that the method reads, says how
far other precisions were found to differ, and holds the sha256 of every other file. `pc_engine.manifest_file` reads and
writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pc_engine.errors import ManifestError
from pc_engine.result import name_of_class

MANIFEST_FILE = "manifest.json"
NETWORK_FILE = "model.onnx"
COUNTER_FILE = "counter.safetensors"
SIGNATURES_FILE = "signatures.safetensors"
#: The quantised networks that a model may have beside its own, by precision.
QUANTISED_FILES = {"int8": "model.int8.onnx", "fp8": "model.fp8.onnx"}
#: Every file of a model directory that its manifest holds the sha256 of.
MODEL_FILES = (NETWORK_FILE, *QUANTISED_FILES.values(), COUNTER_FILE, SIGNATURES_FILE)

#: Taps that the method reads by name; ``count_features`` of a manifest may name others.
REQUIRED_TAPS = ("conv_last", "logits")
#: The tap that says how much each map speaks for the image's class; see `Manifest.evidence_maps`.
EVIDENCE = "evidence"
#: The maps that the classifier's head reads, in a network where these are not ``conv_last``.
MAPS_OF_HEAD = "conv_top"
# Axes of the taps that the modes read, beside the batch: maps by rows by columns, one value a class, one a map.
_MAP_RANK = 3
_RANKS = {"conv_last": _MAP_RANK, "conv_prev": _MAP_RANK, "logits": 1, EVIDENCE: 1}
#: Where P2C takes its signatures from, and on which heat of the class combined points.
SIGNATURE_SETTING, HEAT_SETTING = "p2c.signature", "combined.heat"
#: The class that means "no object", where the network has one.
BACKGROUND_SETTING = "p2c.background_class"


@dataclass(frozen=True)
class Tap:
    """One kept output: ``tensor`` is its name in the ONNX graph, ``shape`` its shape without the batch axis."""

    tensor: str
    shape: tuple[int, ...]

    @property
    def is_maps(self) -> bool:
        """Whether it has the axes of maps: maps by rows by columns."""
        return len(self.shape) == _MAP_RANK


@dataclass(frozen=True)
class NetworkInput:
    """How the network takes pixels.

    A network with ``dtype`` uint8 and ``layout`` NHWC takes RGB pixels as they are: its graph preprocesses them itself,
    and ``mean`` and ``std`` are a record of what was folded in. One with ``dtype`` float32 gets
    ``(pixel - mean) / std`` in its layout and channel order, prepended to the graph when it is opened; ``mean`` and
    ``std`` are of R, G, B whatever that order.
    """

    tensor: str
    height: int
    width: int
    layout: str = "NHWC"
    dtype: str = "uint8"
    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class QuantisedNetwork:
    """A network beside the model's own that computes the same taps in 8 bits: how it takes pixels, its tensors."""

    input: NetworkInput
    taps: Mapping[str, Tap]


@dataclass(frozen=True)
class Fidelity:
    """How a precision's numbers compared with those at fp32, on images that took no part in quantising.

    Attributes
    ----------
    backend
        What ran the precision; fp32 ran on the reference backend.
    n
        Number of images.
    top1
        Share of images with the same class first.
    counts
        Mode to the share of images with the same count, for the modes that the model could run.
    tap_errors
        Tap to the L2 norm of the difference over that of the tap, taken over all images.
    files
        sha256 of the files that were compared or counted with, by file name: the report holds for these only.
    """

    backend: str
    n: int
    top1: float
    counts: Mapping[str, float]
    tap_errors: Mapping[str, float]
    files: Mapping[str, str]

    def agreement(self, mode: str | None = None) -> float:
        """Return the lowest of the agreements in class and count; with ``mode``, its count alone."""
        counts = [share for name, share in self.counts.items() if mode in (None, name)]
        return min(self.top1, *counts) if counts else self.top1


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes
    ----------
    name
        Name shown in tables and written to rows.
    input
        How the network takes pixels. ``mean`` and ``std`` are in units of 0..255, in RGB order.
    taps
        Tap name to tensor. ``conv_last`` and ``logits`` are required, ``conv_prev`` is needed by the signatures,
        ``evidence`` stands in for signatures.
    count_features
        The taps whose L2-normalised concatenation feeds the count SVM (paper 3.1: pool5, fc6, fc7).
    classes
        One name per logit; empty where names are unknown.
    licence, source
        Licence of the weights and where they came from.
    settings
        Defaults of the modes that were measured to suit this network, ``"mode.field"`` to a number, or to a word.
    quantised
        The quantised networks that are there, by precision; the file of each is in `QUANTISED_FILES`.
    fidelity
        What was measured of other precisions, by precision.
    files
        sha256 of every other file of the directory, by file name.
    """

    name: str
    input: NetworkInput
    taps: Mapping[str, Tap]
    count_features: tuple[str, ...]
    classes: tuple[str, ...] = ()
    licence: str = "unknown"
    source: str = "unknown"
    settings: Mapping[str, float | str] = field(default_factory=dict)
    quantised: Mapping[str, QuantisedNetwork] = field(default_factory=dict)
    fidelity: Mapping[str, Fidelity] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in REQUIRED_TAPS:
            if name not in self.taps:
                raise ManifestError(
                    f"The manifest of '{self.name}' names no tap '{name}' (it has {sorted(self.taps)}); "
                    f"add it with the name of the tensor that plays this role."
                )
        for name, tap in self.taps.items():
            rank = _RANKS.get(name, len(tap.shape) or 1)
            if len(tap.shape) != rank or min(tap.shape) < 1:
                raise ManifestError(
                    f"The manifest of '{self.name}' gives the tap '{name}' the shape {list(tap.shape)}, expected "
                    f"{rank} size(s) of at least 1, without the batch axis."
                )
        if min(self.input.height, self.input.width) < 1:
            raise ManifestError(
                f"The manifest of '{self.name}' gives the input {self.input.height} x {self.input.width} pixels, "
                f"expected at least 1 x 1."
            )
        for name in self.count_features:
            if name not in self.taps:
                raise ManifestError(
                    f"The manifest of '{self.name}' lists '{name}' under count_features, which is not one of its taps "
                    f"({sorted(self.taps)})."
                )
        self._check_quantised()
        self._check_evidence()
        n_classes = self.taps["logits"].shape[-1]
        if self.classes and len(self.classes) != n_classes:
            raise ManifestError(
                f"The manifest of '{self.name}' names {len(self.classes)} classes, but its logits have {n_classes} "
                f"values: give one name per logit, or none."
            )

    def _check_quantised(self) -> None:
        for precision, network in self.quantised.items():
            if precision not in QUANTISED_FILES:
                raise ManifestError(
                    f"The manifest of '{self.name}' has a network quantised to '{precision}', expected one of "
                    f"{', '.join(QUANTISED_FILES)}."
                )
            same_size = (network.input.height, network.input.width) == (self.input.height, self.input.width)
            if not same_size or _shapes(network.taps) != _shapes(self.taps):
                raise ManifestError(
                    f"The manifest of '{self.name}' gives its {precision} network another input size, other taps or "
                    "other shapes than its own network: make it again with 'pc-engine build'."
                )

    def _check_evidence(self) -> None:
        if EVIDENCE not in self.taps:
            for setting in (SIGNATURE_SETTING, HEAT_SETTING):
                if self.settings.get(setting) == EVIDENCE:
                    raise ManifestError(
                        f"The manifest of '{self.name}' sets '{setting}' to '{EVIDENCE}', a tap that it does not have: "
                        f"export the network again, or remove the setting."
                    )
            return
        values, maps = self.taps[EVIDENCE].shape, self.taps[self.evidence_maps]
        if not maps.is_maps or values != maps.shape[:1]:
            raise ManifestError(
                f"The manifest of '{self.name}' gives the tap '{EVIDENCE}' the shape {list(values)} and the maps that "
                f"it refers to, '{self.evidence_maps}', the shape {list(maps.shape)}, expected one value a map."
            )

    @property
    def evidence_maps(self) -> str:
        """The tap whose maps ``evidence`` speaks of: those that the classifier's head reads."""
        return MAPS_OF_HEAD if MAPS_OF_HEAD in self.taps else "conv_last"

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.taps["logits"].shape[-1]

    @property
    def network_sha256(self) -> str:
        """sha256 of the network file: the identity of everything derived from it."""
        return self.files[NETWORK_FILE]

    def precision_files(self, precision: str) -> dict[str, str]:
        """Return the sha256 of the files that decide classes and counts at ``precision``, by file name."""
        others = {name for kind, name in QUANTISED_FILES.items() if kind != precision}
        return {name: digest for name, digest in self.files.items() if name in MODEL_FILES and name not in others}

    def fidelity_now(self, precision: str) -> Fidelity | None:
        """Return what was measured of ``precision``; None if that was never done, or a file has changed since."""
        report = self.fidelity.get(precision)
        return report if report is not None and report.files == self.precision_files(precision) else None

    def class_name(self, class_id: int) -> str:
        """Return the name of a class, or its number where the manifest has no names."""
        return name_of_class(class_id, self.classes[class_id] if self.classes else None)


def _shapes(taps: Mapping[str, Tap]) -> dict[str, tuple[int, ...]]:
    return {name: tap.shape for name, tap in taps.items()}
