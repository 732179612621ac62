"""What a mode said about a batch, on the host: the last step before rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pc_engine.device_arrays import copy_to_host
from pc_engine.kernels.array_module import Array
from pc_engine.modes.outcome import Outcome
from pc_engine.result import BoxPointer, EllipsePointer, Pointer


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
        self, n: int, width: int, height: int, class_name: Callable[[int], str | None]
    ) -> tuple[Pointer, ...]:
        """Return the pointers of image ``n`` in pixels, each with its class where the image may show several."""
        pointers = _in_pixels(self.kind, self.pointers[n], width, height)
        if self.pointer_class is None:
            return pointers
        class_ids = self.pointer_class[n][~np.isnan(self.pointers[n, :, 0])].tolist()
        return tuple(
            replace(pointer, class_id=class_id, class_name=class_name(class_id))
            for pointer, class_id in zip(pointers, class_ids, strict=True)
        )


def on_host(outcome: Outcome, finite: Array) -> HostOutcome:
    """Bring what was computed to the host: the one copy of a batch that comes back from a device."""
    count, pointers, flags, *rest = copy_to_host(
        *(outcome.count, outcome.pointers, finite, outcome.count_scores, outcome.class_id, outcome.class_score),
        outcome.pointer_class,
    )
    assert count is not None
    assert pointers is not None
    assert flags is not None
    return HostOutcome(count, outcome.kind, pointers, flags, *rest)


def _in_pixels(kind: str, pointers: np.ndarray[Any, Any], width: int, height: int) -> tuple[Pointer, ...]:
    """Return the pointers (K, 5) of one image, fractions of the picture, in its pixels; NaN rows are none."""
    scaled = pointers[~np.isnan(pointers[:, 0])] * (width, height, width, height, 1)
    rows = [tuple(map(float, row)) for row in scaled]
    if kind == "ellipse":
        return tuple(EllipsePointer(x, y, rx, ry, score) for x, y, rx, ry, score in rows)
    return tuple(BoxPointer(x0, y0, x1, y1, score) for x0, y0, x1, y1, score in rows)
