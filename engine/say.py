"""How a part of the engine speaks to whoever runs it."""

from __future__ import annotations

from collections.abc import Callable

#: Is called with one sentence, and shows it, or does not.
Say = Callable[[str], None]
