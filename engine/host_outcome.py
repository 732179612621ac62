"""What a mode said about a batch, on the host: the last step before rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.hardware.device_arrays import copy_to_host
from pc_engine.kernels.array_module import Array
from pc_engine.modes.outcome import Outcome
from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer


@dataclass(frozen=True)
class HostOutcome:
    """An `Outcome` on the host, and which of its N images had finite taps (N,)."""

    count: np.ndarray
    kind: str
    pointers: np.ndarray
    finite: np.ndarray
    count_scores: np.ndarray | None
    class_id: np.ndarray | None
    class_score: np.ndarray | None
    pointer_class: np.ndarray | None

    def pointers_in_pixels(
        self, sizes: Sequence[tuple[int, int]], class_name: Callable[[int], str | None]
    ) -> list[tuple[Pointer, ...]]:
        """Return the pointers of each image in pixels, each with its class where the image may show several.

        Parameters
        ----------
        sizes
            Width and height of each image.
        class_name
            Gives the name of a class.
        """
        scale = np.ones((len(sizes), 1, 5))
        scale[:, 0, :4] = np.tile(np.array(sizes, np.float64).reshape(-1, 2), 2)
        # What a GPU returns has room for as many pointers as there can be.
        used = np.flatnonzero(~np.isnan(self.pointers[..., 0]).all(axis=0))
        room = int(used[-1]) + 1 if len(used) else 0
        # Plain numbers for the whole batch at once: a row of them takes longer to make one by one.
        numbers = (self.pointers[:, :room] * scale).tolist()
        kind = EllipsePointer if self.kind == "ellipse" else BoxPointer
        # Lists, which are made faster than what a generator yields.
        if self.pointer_class is None:
            return [
                tuple([kind(a, b, c, d, score) for a, b, c, d, score in rows if not math.isnan(a)]) for rows in numbers
            ]
        return [
            tuple(
                [
                    kind(a, b, c, d, score, class_id=class_id, class_name=class_name(class_id))
                    for (a, b, c, d, score), class_id in zip(rows, class_ids, strict=True)
                    if not math.isnan(a)
                ]
            )
            for rows, class_ids in zip(numbers, self.pointer_class[:, :room].tolist(), strict=True)
        ]


def outcome_arrays(outcome: Outcome, finite: Array) -> tuple[Array | None, ...]:
    """Return all arrays of N images that `host_outcome` takes, from wherever they were computed."""
    return (
        outcome.count,
        outcome.pointers,
        finite,
        outcome.count_scores,
        outcome.class_id,
        outcome.class_score,
        outcome.pointer_class,
    )


def host_outcome(kind: str, arrays: Sequence[np.ndarray | None]) -> HostOutcome:
    """Return the outcome of these `outcome_arrays`, which are on the host by now."""
    count, pointers, flags, *rest = arrays
    assert count is not None
    assert pointers is not None
    assert flags is not None
    return HostOutcome(count, kind, pointers, flags, *rest)


def on_host(outcome: Outcome, finite: Array) -> HostOutcome:
    """Bring what was computed to the host: the one copy of a batch that comes back from a device."""
    return host_outcome(outcome.kind, copy_to_host(*outcome_arrays(outcome, finite)))
