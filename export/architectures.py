"""Networks that are built from their weights, by the names of their architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pc_engine.errors import UsageError

_Spec = TypeVar("_Spec")


def find_architecture(name: str, known: Mapping[str, _Spec]) -> _Spec:
    """Return the architecture called ``name``; raise UsageError listing the ``known`` ones where it is none of them."""
    if name not in known:
        raise UsageError(f"There is no architecture '{name}': choose one of {', '.join(known)}.")
    return known[name]
