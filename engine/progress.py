"""How what takes a while says how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with how many more are done.
Advance = Callable[[int], None]
#: Called with the name of what is at work, the steps done, and the steps in all.
Progress = Callable[[str, int, int], None]
