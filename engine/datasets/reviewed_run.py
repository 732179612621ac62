"""The images of a run that a person reviewed, with the counts that were found right (``pc-engine review``)."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from pc_engine.corrections import corrected_rows
from pc_engine.datasets.records import LabelledImage, LabelledSet, LabelledSetBuilder
from pc_engine.errors import DataError
from pc_engine.photos import RunPhotos


def read_reviewed_run(directory: Path, photos: Path | None = None) -> LabelledSet:
    """Read the reviewed images of a run directory: counts, no boxes.

    Parameters
    ----------
    directory
        The run directory.
    photos
        The folder that the photos lie in now; None where they lie as they did in the run.

    Raises
    ------
    DataError
        If the folder is no run directory, or none of its images was reviewed and is still there.
    UsageError
        If ``photos`` is no folder.
    """
    if not directory.is_dir():
        raise DataError(f"There is no folder {directory}: name the folder given to 'pc-engine run --out'.")
    found = RunPhotos(directory, photos)
    builder = LabelledSetBuilder(directory.name, directory)
    remedy = f" (where the photos moved: 'run:{directory}@PHOTOS_DIR')" if photos is None else ""
    n_reviewed = 0
    for row in corrected_rows(directory):
        if not row.get("reviewed"):
            continue
        n_reviewed += 1
        file = found.file(row["path"])
        if file is None:
            builder.skip(row["path"], "it is not a file of this machine: copy it to one to fit on it")
        else:
            builder.add(LabelledImage(file, row["count"]), remedy)
    if not n_reviewed:
        raise DataError(
            f"No image of {directory} was reviewed yet: do that with 'pc-engine review {quote(str(directory))}'."
        )
    return builder.build()
