"""What a listing passes over: files in folders and archives that are no images, counted by their suffixes."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable

from pc_engine.sources.addresses import file_part, is_address
from pc_engine.sources.folders import RAW_SUFFIXES
from pc_engine.sources.stored_names import stored_name

# Of systems, which nobody takes for photos; so are files whose names begin with a dot.
_OF_SYSTEMS = frozenset({"thumbs.db", "desktop.ini"})
_TAR_GZ = ".tar.gz"
# In a folder they may be copies of what lies beside them, so that they are read where they are named only.
_ARCHIVES = frozenset({".tar", _TAR_GZ, ".tgz", ".zip", ".parquet"})
_SUFFIX = re.compile(r"\.[a-z0-9_+-]{1,10}")
_OTHER = "other"
# Numbered files may each have a suffix of their own.
_MOST_SUFFIXES = 100
_SHOWN = 5


class PassedOver:
    """Counts files by their suffixes, and images named again; memory does not grow with their number.

    Parameters
    ----------
    counts
        Whether the file of a name counts; asked of those only that are not a system's.

    Attributes
    ----------
    named_again
        Images that were named before.
    """

    def __init__(self, counts: Callable[[str], bool] = lambda _: True) -> None:
        self._counts = counts
        self._by_suffix: Counter[str] = Counter()
        self._archives: Counter[str] = Counter()
        self._folders: dict[str, str] = {}  # of the first archive with a suffix
        self.named_again = self._with_another_count = 0

    def add(self, name: str) -> None:
        """Count a file, by its path or address."""
        own = os.path.basename(file_part(name))
        # A web page's own address is among the links in it.
        if not own or own.startswith(".") or own.lower() in _OF_SYSTEMS or not self._counts(name):
            return
        suffix = _TAR_GZ if own.lower().endswith(_TAR_GZ) else os.path.splitext(own)[1].lower()
        # One within another, or at an address, is not to be named by a pattern.
        if suffix in _ARCHIVES and not is_address(name):
            self._archives[suffix] += 1
            self._folders.setdefault(suffix, os.path.dirname(name))
            return
        is_usual = suffix in _ARCHIVES or _SUFFIX.fullmatch(suffix)
        known = is_usual and (suffix in self._by_suffix or len(self._by_suffix) < _MOST_SUFFIXES)
        self._by_suffix[suffix if known else _OTHER] += 1

    def add_named_again(self, name: str, with_another_count: bool) -> None:
        """Count an image that was named before."""
        if self._counts(name):
            self.named_again += 1
            self._with_another_count += with_another_count

    def to_dict(self) -> dict[str, int]:
        """Return the number of files by suffix, in small letters with its dot, the most frequent first; "other" too."""
        return dict((self._by_suffix + self._archives).most_common())

    def notes(self) -> list[str]:
        """Return the sentence on archives, without which nobody knows why a run of them has no images."""
        return [self._of_archives()] if self._archives else []

    def sentences(self) -> list[str]:
        """Return what to tell the user: nothing where no file was passed over."""
        raw = Counter({suffix: n for suffix, n in self._by_suffix.items() if suffix in RAW_SUFFIXES})
        others, archives = self._by_suffix - raw, self._archives.total()
        said = []
        if n := others.total():
            what = "1 file of an unsupported kind was" if n == 1 else f"{n:,} files of unsupported kinds were"
            said.append(f"{what} passed over ({_listed(others)}).")
        if archives:
            said.append(self._of_archives())
        if n := raw.total():
            what = "1 raw photo was" if n == 1 else f"{n:,} raw photos were"
            beside = "each lies beside its JPEG or HEIC" if n > 1 else "it lies beside its JPEG or HEIC"
            said.append(f"{what} passed over, as {beside} ({_listed(raw)}).")
        if n := self.named_again:
            several = f"{n:,} images were given more than once and are"
            what = "1 image was given more than once and is" if n == 1 else several
            counts = f", {self._with_another_count:,} with another count: the first one is used"
            said.append(f"{what} counted once{counts if self._with_another_count else ''}.")
        return said

    def _of_archives(self) -> str:
        n, suffix = self._archives.total(), self._archives.most_common(1)[0][0]
        what = "1 archive was" if n == 1 else f"{n:,} archives were"
        # As a shell takes it; a pattern of the letters in the folder's name may match others.
        example = stored_name(os.path.join(glob.escape(self._folders[suffix]), f"*{suffix}"))
        return (
            f"{what} passed over ({_listed(self._archives)}): archives are read only if named as sources, such as "
            f"'{example}'."
        )


def _listed(counts: Counter[str]) -> str:
    shown = counts.most_common(_SHOWN)
    rest = counts.total() - sum(n for _, n in shown)
    return ", ".join([f"{n:,} {suffix}" for suffix, n in shown] + ([f"{rest:,} of other kinds"] if rest else []))
