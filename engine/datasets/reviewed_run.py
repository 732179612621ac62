"""The images of a run that a person reviewed, with the counts that were found right (``pc-engine review``).

They are files; those that were in archives are where these were unpacked.
"""

from __future__ import annotations

import os
from pathlib import Path

from pc_engine.datasets.records import LabelledImage, LabelledSet, LabelledSetBuilder
from pc_engine.datasets.unpacked import Member, UnpackedArchives, member_of
from pc_engine.errors import DataError
from pc_engine.runs.photos import RunPhotos, names_a_file
from pc_engine.runs.rows import iter_rows
from pc_engine.shown_text import for_shell


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
    remedy = f" (if the photos have moved: 'run:{directory}@PHOTOS_DIR')" if photos is None else ""
    unpacked = UnpackedArchives(photos)
    members: list[tuple[Member, int]] = []
    n_reviewed = 0
    for row in iter_rows(directory, corrected=True):
        path = row["path"]
        member = member_of(path)
        if member is not None:
            unpacked.note(member)
        if not row.get("reviewed"):
            continue
        n_reviewed += 1
        file = found.file(path)
        if member is not None:
            members.append((member, row["count"]))
        elif file is None or not (names_a_file(path) or os.path.lexists(file)):
            builder.skip(
                path, "it is not a file of its own: run on copies of the photos in a folder, and review that run"
            )
        else:
            builder.add(LabelledImage(file, row["count"]), remedy)
    # Only now it is known which archives there are, and where their images may lie.
    for member, count in members:
        if photos is None:
            builder.skip(
                member.path, f"it is in an archive: unpack that, and say where as 'run:{directory}@PHOTOS_DIR'"
            )
        elif (unpacked_file := unpacked.file(member)) is None:
            builder.skip(member.path, unpacked.why_not(member))
        else:
            builder.add(LabelledImage(unpacked_file, count))
    if not n_reviewed:
        raise DataError(
            f"No image of {directory} has been reviewed yet: do that with 'pc-engine review "
            f"{for_shell(str(directory))}'."
        )
    return builder.build()
