"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order of the logits of the networks trained on them."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Return (WordNet id, names separated by commas) of each class, e.g. ``("n01440764", "tench, Tinca tinca")``."""
    text = (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8")
    rows = (line.partition(" ") for line in text.splitlines())
    return tuple((wnid, name) for wnid, _, name in rows)


def imagenet_class_names() -> tuple[str, ...]:
    """Return the names alone."""
    return tuple(name for _, name in imagenet_classes())
