"""What is asked of an export beside the weights, in groups that mean the same for every kind of network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pc_engine.errors import UsageError
from pc_engine.export.cooccurrence import Cooccurrence

#: The value of a pixel that is white.
LARGEST_PIXEL = 255


@dataclass(frozen=True)
class Description:
    """What a manifest says of a model beside its network.

    Attributes
    ----------
    classes
        One name per logit, or none; ImageNet's 1,000 also where a class of the network means "no object" besides.
    licence
        Of the weights.
    source
        Where they are from; their file's name if None.
    """

    classes: Sequence[str] = ()
    licence: str = "unknown"
    source: str | None = None


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become the network's input, where its weights were trained otherwise than is usual for them.

    Attributes
    ----------
    mean, std
        What is subtracted from pixels of 0..255 RGB, and what they are then divided by; None for what is usual.
    size
        Height and width of the input in pixels; None for what the network was trained for.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Readout:
    """Which tensors of a network are read, and what for.

    Attributes
    ----------
    taps
        Tap name to the tensor that plays this role, or to the node whose first output does. ``logits`` left out are the
        network's only output, ``conv_last`` the maps that its head reads, beside which ``conv_prev`` is what the last
        convolution before them does.
    count_features
        Taps that feed the count SVM. None for ``conv_last`` and the co-occurrences of finer maps, where the network has
        them (`pc_engine.export.finer_maps`); for no others than ``cooccurrences`` where these are given.
    cooccurrences
        Taps to compute beside the named ones, from maps among these; the count SVM reads them after the others.
    heat
        Taps of maps whose heat modes c2p and combined point at (`pc_engine.modes.c2p.C2PSettings`), and with which p2c
        weighs that of the class (`pc_engine.modes.p2c.P2CSettings`). With none, where finer maps are found as above,
        ``conv_prev`` and these; else those of the modes' own defaults.
    background_class
        The class that means "no object", where the network has one; -1 where it has none.
    two_scales
        Whether the network is to see images at twice their size, too (`pc_engine.export.two_scales`). One tap at least
        is then of what it shows there.
    """

    taps: Mapping[str, str] = field(default_factory=dict)
    count_features: Sequence[str] | None = None
    cooccurrences: Sequence[Cooccurrence] = ()
    heat: Sequence[str] = ()
    background_class: int = -1
    two_scales: bool = False


DEFAULT_DESCRIPTION, DEFAULT_PREPROCESSING, DEFAULT_READOUT = Description(), Preprocessing(), Readout()


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UsageError unless pixels can be brought to the network's range by these numbers; empty for usual ones."""
    if not all(map(math.isfinite, (*mean, *std))) or min(std, default=1) <= 0:
        raise UsageError(
            f"Pixels less {', '.join(map(str, mean)) or 'their mean'}, divided by {', '.join(map(str, std))}, give no "
            "valid input: use numbers for --mean and numbers above 0 for --std."
        )
    unchanged = not any(mean) and all(value == 1 for value in std)
    if not unchanged and all(abs(value) <= 1 for value in (*mean, *std)):
        given = {"--mean": mean if any(mean) else (), "--std": std if any(value != 1 for value in std) else ()}
        found, meant = (
            " ".join(
                f"{option} {_listed([factor * value for value in values])}"
                for option, values in given.items()
                if values
            )
            for factor in (1, LARGEST_PIXEL)
        )
        raise UsageError(
            f"{found} seems to be for pixels of 0..1, but pixels are 0..{LARGEST_PIXEL} here: multiply by "
            f"{LARGEST_PIXEL}, {meant}. For a network that takes pixels of 0..1, --std {LARGEST_PIXEL} is all."
        )


def _listed(values: Sequence[float]) -> str:
    """Return numbers as the options take them: one for three that are the same."""
    texts = [f"{value:.7g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)
