"""The rows of a run, for programs: as it wrote them, or as people corrected them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pc_engine.errors import UsageError
from pc_engine.runs.corrections import corrected_row, read_corrections
from pc_engine.runs.partition_names import partitions_of
from pc_engine.runs.run_state import states
from pc_engine.runs.writers import rows_of
from pc_engine.shown_text import for_shell


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
    if not isinstance(directory, (str, os.PathLike)):
        raise UsageError(f"The folder of a run is {directory!r:.60}, expected text or a path.")
    directory = Path(directory)
    partitions = partitions_of(directory)
    if not partitions:
        raise UsageError(_without_rows(directory))
    rows = (row for path in partitions for row in rows_of(path))
    if not corrected:
        return rows
    corrections = read_corrections(directory)
    return (corrected_row(row, corrections.get(row["path"])) for row in rows)


def _without_rows(directory: Path) -> str:
    if not directory.exists():
        return f"There is no folder {directory}: name the one given to 'pc-engine run --out'."
    runs = states(directory)
    if not runs:
        return f"{directory} holds no rows: name the folder given to 'pc-engine run --out'."
    if {run.get("state") for run in runs} == {"finished"}:
        if any(run.get("n") for run in runs):
            return f"The rows of the run into {directory} are gone: restore its part files, or do the run again."
        return f"The run into {directory} found no images: run it on other sources."
    return (
        f"The run into {directory} has no rows yet: ask 'pc-engine status {for_shell(str(directory))}' how far it is."
    )
