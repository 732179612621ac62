"""Which images a run directory has rows of already, for millions of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pc_engine.sources.sharding import name_digest


class DoneNames:
    """A bag of names, of which each may be taken as often as it is in there.

    Holds 17 bytes a name. Rows of an earlier release may be two of one image, so names are counted, not just known.

    Parameters
    ----------
    names
        The names, in any order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        digests = bytearray()
        for name in names:
            digests += name_digest(name)
        words = np.frombuffer(bytes(digests), "<u8").reshape(-1, 2)
        # By the first word alone: two names that share it lie side by side, and are told apart by the second.
        words = words[np.lexsort((words[:, 1], words[:, 0]))]
        self._first, self._second = np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])
        self._left = np.ones(len(words), bool)

    def take(self, name: str) -> bool:
        """Take one of this name away; return whether there was one."""
        if not len(self._first):
            return False
        digest = name_digest(name)
        first, second = (np.uint64(int.from_bytes(word, "little")) for word in (digest[:8], digest[8:]))
        k = int(np.searchsorted(self._first, first))
        if k == len(self._first) or self._first[k] != first:
            return False
        if self._second[k] != second or not self._left[k]:
            # Those of one name lie side by side and are taken from the left: they are not gone through one by one.
            end = k + int(np.searchsorted(self._first[k:], first, "right"))
            end = k + int(np.searchsorted(self._second[k:end], second, "right"))
            k += int(np.searchsorted(self._second[k:end], second))
            k += int(np.searchsorted(self._left[k:end], True))
            if k == end:
                return False
        self._left[k] = False
        return True
