"""The rows of a run, for programs: as it wrote them, or as people corrected them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pc_engine.runs import writers
from pc_engine.runs.corrections import corrected_rows


def iter_rows(directory: str | os.PathLike[str], *, corrected: bool = False) -> Iterator[dict[str, Any]]:
    """Return the rows of a run, Parquet or JSONL, one after the other, in their order, a few at a time in memory.

    They are as `Result.to_dict` makes them, for ``pandas.DataFrame`` or `Result.from_dict`, but for numbers, of which
    Parquet keeps 32 bits.

    Parameters
    ----------
    directory
        What the run was given as ``--out``.
    corrected
        Take what people found right in ``pc-engine review`` in the place of what the run found, as ``pc-engine
        convert`` does; their rows have ``"reviewed": True`` beside their columns, and what the run had found as
        ``count_found`` and ``count_label_found``.

    Raises
    ------
    UsageError
        If it holds no rows; at once, before any row is asked for.
    DataError
        If its corrections cannot be read, also at once.
    PcEngineError
        If a file of rows is damaged; when its turn comes.
    """
    rows = writers.iter_rows(directory)
    return corrected_rows(Path(directory)) if corrected else rows
