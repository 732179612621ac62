"""Which count labels can be learnt: a cross-validation needs an image to fit on and another to judge by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pc_engine.fitted.counter import count_label


def learnable_labels(counts: Iterable[int], labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return those of the ``labels`` that some counts have, less those of a single image, and these.

    Where fewer than two labels would be left all stay, for `pc_engine.fitting.counter.check_counts` to say so.
    """
    images = Counter(count_label(count, labels) for count in counts)
    present = tuple(label for label in labels if images[label])
    alone = tuple(label for label in present if images[label] == 1)
    left = tuple(label for label in present if label not in alone)
    return (left, alone) if len(left) > 1 else (present, ())
