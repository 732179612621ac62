"""One HTML page about a run: figures, failures, and a gallery of its photos with what was found in them.

The page is self-contained: style, code and rows are inside it, and it asks no other server for anything.
"""

from __future__ import annotations

from pc_engine.report.report import Report, write_report

__all__ = ["Report", "write_report"]
