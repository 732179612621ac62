"""Sharing one collection out among several processes that know nothing of each other, such as a job array's."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from pc_engine.errors import UsageError


def name_digest(name: str) -> bytes:
    """Return 16 bytes that stand for an image's name, the same on every machine."""
    # BLAKE2: fast, and nobody can make two names that meet.
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


@dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``of`` shards, counted from 1.

    Which images it holds depends on their names alone: files that come or go move no other file to another shard.
    """

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise UsageError(f"There is no shard {self.option}: shards are numbered from 1/{self.of}.")

    def holds(self, name: str) -> bool:
        """Whether the image of this name is this shard's to do."""
        return int.from_bytes(name_digest(name)[:8], "little") % self.of == self.index - 1

    @property
    def option(self) -> str:
        """What ``--shard`` takes for it, such as ``2/16``."""
        return f"{self.index}/{self.of}"

    def __str__(self) -> str:
        """What names of files hold of it, such as ``2-of-16``."""
        return f"{self.index}-of-{self.of}"


def parse_shard(text: str) -> Shard:
    """Return the shard that ``"2/16"`` stands for.

    Raises
    ------
    UsageError
        If the text is no shard.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None:
        raise UsageError(f"--shard is '{text}', expected which one of how many, such as 2/16.")
    return Shard(int(found[1]), int(found[2]))
