"""``manifest.json``: what a model directory says about its network.

A model is a directory with ``model.onnx`` and ``manifest.json``, and optionally ``counter.safetensors`` (the count
SVM) and ``signatures.safetensors`` (the class signatures). The manifest names the taps, i.e. the intermediate
tensors of the network that the method reads, and holds the sha256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pc_engine.errors import ManifestError

FORMAT = 1
MANIFEST_FILE = "manifest.json"
NETWORK_FILE = "model.onnx"
COUNTER_FILE = "counter.safetensors"
SIGNATURES_FILE = "signatures.safetensors"

#: Taps that the method reads by name; ``count_features`` of a manifest may name others.
REQUIRED_TAPS = ("conv_last", "logits")
#: Axes of the taps that the modes read, beside the batch: maps by rows by columns, and one value a class.
_RANKS = {"conv_last": 3, "conv_prev": 3, "logits": 1}


@dataclass(frozen=True)
class Tap:
    """One kept output: ``tensor`` is its name in the ONNX graph, ``shape`` its shape without the batch axis."""

    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NetworkInput:
    """How the network takes pixels.

    A network with ``dtype`` uint8 and ``layout`` NHWC takes RGB pixels as they are: its graph preprocesses them itself,
    and ``mean`` and ``std`` are a record of what was folded in. One with ``dtype`` float32 gets
    ``(pixel - mean) / std`` in its layout and channel order, prepended to the graph when it is opened.
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
class Manifest:
    """The contents of ``manifest.json``.

    Attributes
    ----------
    name
        Name shown in tables and written to rows.
    input
        How the network takes pixels. ``mean`` and ``std`` are in units of 0..255, in RGB order.
    taps
        Tap name to tensor. ``conv_last`` and ``logits`` are required, ``conv_prev`` is needed by the signatures.
    count_features
        The taps whose L2-normalised concatenation feeds the count SVM (paper 3.1: pool5, fc6, fc7).
    classes
        One name per logit; empty where names are unknown.
    licence, source
        Licence of the weights and where they came from.
    settings
        Defaults of the modes that were measured to suit this network, ``"mode.field"`` to value.
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
    settings: Mapping[str, float] = field(default_factory=dict)
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
        n_classes = self.taps["logits"].shape[-1]
        if self.classes and len(self.classes) != n_classes:
            raise ManifestError(
                f"The manifest of '{self.name}' names {len(self.classes)} classes, but its logits have {n_classes} "
                f"values: give one name per logit, or none."
            )

    @property
    def n_classes(self) -> int:
        """Number of logits."""
        return self.taps["logits"].shape[-1]

    @property
    def network_sha256(self) -> str:
        """sha256 of the network file: the identity of everything derived from it."""
        return self.files[NETWORK_FILE]

    def class_name(self, class_id: int) -> str:
        """Return the name of a class, or its number where the manifest has no names."""
        return self.classes[class_id] if self.classes else str(class_id)


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(manifest: Manifest, directory: Path) -> Manifest:
    """Write ``manifest.json`` into ``directory`` with the sha256 of its model files as they are now; return it."""
    known = (NETWORK_FILE, COUNTER_FILE, SIGNATURES_FILE)
    files = {name: file_sha256(directory / name) for name in known if (directory / name).is_file()}
    manifest = replace(manifest, files=files)
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1, ensure_ascii=False) + "\n"
    temporary = directory / (MANIFEST_FILE + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(directory / MANIFEST_FILE)
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Read ``directory/manifest.json``.

    Raises
    ------
    ManifestError
        If it is absent, is not JSON, lacks a field, or a field has the wrong form.
    """
    path = directory / MANIFEST_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"{directory} has no {MANIFEST_FILE}, so it is not a model directory: make one with 'pc-engine export'."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} cannot be read as JSON ({error}); make it anew with 'pc-engine export'.") from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{path} holds {type(raw).__name__}, expected a JSON object.")
    if raw.get("format") != FORMAT:
        raise ManifestError(
            f"{path} has format {raw.get('format')!r}, this version reads {FORMAT}: "
            f"make it anew with 'pc-engine export'."
        )
    try:
        return _parse(raw)
    except KeyError as error:
        raise ManifestError(f"{path} lacks the field {error}.") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ManifestError(f"{path} has a field of the wrong form: {error}.") from None


def _parse(raw: Mapping[str, Any]) -> Manifest:
    pixels = dict(raw["input"])
    network_input = NetworkInput(
        **{
            **pixels,
            "height": int(pixels["height"]),
            "width": int(pixels["width"]),
            "mean": _three(pixels.get("mean", (0, 0, 0)), "input.mean"),
            "std": _three(pixels.get("std", (1, 1, 1)), "input.std"),
        }
    )
    for name, allowed in (("layout", ("NHWC", "NCHW")), ("dtype", ("uint8", "float32")), ("channels", ("RGB", "BGR"))):
        if getattr(network_input, name) not in allowed:
            raise ValueError(f"input.{name} is {getattr(network_input, name)!r}, expected one of {allowed}")
    if network_input.dtype == "uint8" and network_input.layout != "NHWC":
        raise ValueError("a uint8 input must have layout NHWC")
    return Manifest(
        name=str(raw["name"]),
        input=network_input,
        taps={
            str(name): Tap(str(tap["tensor"]), tuple(int(size) for size in tap["shape"]))
            for name, tap in raw["taps"].items()
        },
        count_features=tuple(str(name) for name in raw["count_features"]),
        classes=tuple(str(name) for name in raw.get("classes", ())),
        licence=str(raw.get("licence", "unknown")),
        source=str(raw.get("source", "unknown")),
        settings={str(name): _finite(value, f"settings.{name}") for name, value in raw.get("settings", {}).items()},
        files={str(name): str(digest) for name, digest in raw.get("files", {}).items()},
    )


def _three(values: Any, name: str) -> tuple[float, float, float]:
    red, green, blue = (_finite(value, name) for value in values)
    if name.endswith("std") and min(red, green, blue) <= 0:
        raise ValueError(f"{name} is {values}, expected three positive numbers")
    return red, green, blue


def _finite(value: Any, name: str) -> float:
    number = float(value)
    if not math.isfinite(number):  # JSON as Python reads it knows NaN and Infinity
        raise ValueError(f"{name} is {number}, expected a finite number")
    return number
