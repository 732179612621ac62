"""How often a name has come up before, for archives and lists of any number of names."""

from __future__ import annotations

from array import array

from pc_engine.sources.sharding import name_digest

_FEWEST_SLOTS = 64


class Repeats:
    """Counts names in the order in which they come.

    Holds 16 to 32 bytes a name. Two names that share the first half of their digest count as one, in every process
    alike.

    Parameters
    ----------
    most
        Names that are remembered; a further one counts as new each time. None for all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        # A set of Python's takes four times as much. Empty slots are 0.
        self._slots = array("Q", [0]) * _FEWEST_SLOTS
        self._taken = 0
        self._again: dict[int, int] = {}

    def count(self, name: str) -> int:
        """Note a name; return how often it has come, this time included."""
        digest = int.from_bytes(name_digest(name)[:8], "little") or 1
        place = self._place(digest)
        if self._slots[place]:
            number = self._again[digest] = self._again.get(digest, 1) + 1
            return number
        if self._taken == self._most:
            return 1
        self._slots[place] = digest
        self._taken += 1
        if 2 * self._taken > len(self._slots):
            self._grow()
        return 1

    def _place(self, digest: int) -> int:
        """Return the place of a digest, or the empty one that it belongs to."""
        slots, last = self._slots, len(self._slots) - 1
        place = digest & last
        while slots[place] not in (0, digest):
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        before, self._slots = self._slots, array("Q", [0]) * (2 * len(self._slots))
        for digest in before:
            if digest:
                self._slots[self._place(digest)] = digest
