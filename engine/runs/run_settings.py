"""What the rows of one directory have in common: a run that goes on with other settings is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pc_engine.errors import UsageError

_MODEL = "model"
# Of another model these alone are said to differ: its files and parameters do, anyway.
_SAID = ("mode", _MODEL, "format")
# They are called as in a manifest: p2c.pointer.
_PARAMETERS = "parameters"
# Both are given by --count: a number, or a column that says the number of each image.
_COUNT, _COLUMN = "known_count", "count_column"
# What else people know by other names, mostly those of options.
_NAMES = {
    _COUNT: "--count",
    "network_sha256": "network",
    "counter_sha256": "counter",
    "signatures_sha256": "signatures",
}


def check_settings(earlier: Mapping[str, Any], now: Mapping[str, Any], directory: Path) -> None:
    """Raise UsageError if rows in ``directory`` were made otherwise, in any of what ``now`` has, than it says."""
    differences = _differences(_as_given(earlier), _as_given(now))
    if differences:
        raise UsageError(
            f"{directory} holds rows made with other settings ({'; '.join(differences)}): choose another folder, or "
            f"replace them with --fresh."
        )


def _as_given(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with what was given by --count under one name."""
    column = settings.get(_COLUMN)
    others = {name: value for name, value in settings.items() if name != _COLUMN}
    return others if column is None else {**others, _COUNT: column}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """Return what settings differ in, as in "mode c2p, not p2c"; of another model, which differs in all, its name."""
    if not within and now.get(_MODEL, before.get(_MODEL)) != before.get(_MODEL):
        before, now = ({name: value for name, value in of.items() if name in _SAID} for of in (before, now))
    found: list[str] = []
    for name, value in now.items():
        earlier = before.get(name)
        if isinstance(value, Mapping) and isinstance(earlier, Mapping):
            found += _differences(earlier, value, "" if name == _PARAMETERS else f"{within}{name}.")
        elif earlier != value:
            found.append(f"{_NAMES.get(name, f'{within}{name}')} {_shown(earlier)}, not {_shown(value)}")
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    # Sums are long, and their first digits are enough to see that they differ.
    return value[:12] + "..." if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else str(value)
