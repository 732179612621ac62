"""What a peer is, what it is given to do, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from pc_engine.backbone import Taps

Scope = Literal["end to end", "network"]


@dataclass(frozen=True, eq=False)
class Workload:
    """The same work for every peer: files for those that go end to end, as many full batches for networks alone.

    Attributes
    ----------
    paths
        The photos.
    batches
        Distinct batches, uint8 (batch size, H, W, 3), to be gone through in turn.
    """

    paths: Sequence[Path]
    batches: Sequence[np.ndarray]

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return len(self.batches[0])

    @property
    def times(self) -> int:
        """Number of batches that hold as many images as there are photos."""
        return -(-len(self.paths) // self.batch_size)

    def images(self, scope: Scope) -> int:
        """Return the number of images that a peer of that scope gets."""
        return len(self.paths) if scope == "end to end" else self.times * self.batch_size


class Peer(Protocol):
    """One way to do the work: ``"end to end"`` from files to counts and pointers, or the ``"network"`` alone.

    ``letter`` groups peers: (a) is what the rates of all are divided by. ``note`` says how it was set up.
    """

    name: str
    letter: str
    scope: Scope
    precision: str
    note: str

    def taps(self, images: np.ndarray) -> Taps:
        """Return what the network says about a full batch, uint8 (n, H, W, 3)."""

    def run(self, work: Workload) -> list[int]:
        """Do the work; return the count of every photo, or nothing where only the network runs."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True)
class PeerResult:
    """What a peer did.

    Attributes
    ----------
    letter, name, precision, scope, note
        The peer.
    images_per_second
        Of the median run; None where the peer was not timed.
    seconds
        Of every run.
    ratio
        ``images_per_second`` over that of peer (a); None where either is missing.
    tap_difference
        Largest relative L2 difference of a tap from the reference on the same pixels.
    count_agreement
        Share of photos with the reference's count; None where only the network runs.
    reason
        Why the peer is not available here, or was not timed; empty where it was.
    """

    letter: str
    name: str
    precision: str
    scope: Scope
    note: str = ""
    images_per_second: float | None = None
    seconds: tuple[float, ...] = ()
    ratio: float | None = None
    tap_difference: float | None = None
    count_agreement: float | None = None
    reason: str = ""


def label_of(peer: Peer | PeerResult) -> str:
    """Return what to call a peer in a sentence."""
    return f"({peer.letter}) {peer.name} at {peer.precision}"
