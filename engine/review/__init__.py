"""Correct a run by hand: a page on this machine that shows its photos, and saves what is changed at once.

`pc_engine.runs.corrections` keeps what is saved; the converters and ``fit-counter run:DIR`` use it.
"""

from __future__ import annotations

from pc_engine.review.server import ReviewServer
from pc_engine.review.session import ReviewSession

__all__ = ["ReviewServer", "ReviewSession"]
