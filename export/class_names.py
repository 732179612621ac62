"""Reading the names of a network's classes."""

from __future__ import annotations

import json
from pathlib import Path

from pc_engine.errors import UsageError


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names in the order of the logits.

    Parameters
    ----------
    path
        A text file with one name a line, or JSON: a list of names, a list of ``[index, name]`` or
        ``[index, wnid, name]``, or an object from index to name or to ``[wnid, name]``.

    Raises
    ------
    UsageError
        If the file cannot be read, has another form, or its indices are not 0, 1, 2, … each once.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if is_json else text.rstrip("\n").split("\n")
        json.dumps(content, ensure_ascii=False).encode()  # JSON can hold halves of characters
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"The class names in {path} cannot be read ({error}).") from None
    if isinstance(content, list) and all(isinstance(item, str) for item in content):
        return tuple(item.strip() for item in content)
    try:
        rows = list(content.items()) if isinstance(content, dict) else [(row[0], row[1:]) for row in content]
        by_index = {int(index): value if isinstance(value, str) else str(value[-1]) for index, value in rows}
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
        raise UsageError(
            f"{path} holds no class names: expected a list of names, or of [index, name] or [index, wnid, name]."
        ) from None
    if len(by_index) != len(rows) or sorted(by_index) != list(range(len(rows))):
        raise UsageError(f"The indices in {path} must be 0 to {len(rows) - 1}, each once; number the classes so.")
    return tuple(by_index[index] for index in range(len(rows)))
