"""The paper's data (section 4): SOS and ESOS, counts of salient objects, and MSO, which adds boxes.

As distributed: a folder with ``imgIdx.mat`` (a single ``.mat`` file of another name will do), a struct array with the
fields ``name``, ``label`` (0 to 4, 4 being "4+"), ``istest`` (SOS, ESOS) and ``anno`` (MSO: one row ``x0 y0 x1 y1`` in
pixels per object), and the images beside it or in ``img/``. SOS and MSO are MATLAB 7.3 files, ESOS is an older one.
(Zhang et al., "Salient Object Subitizing", CVPR 2015, the paper's reference 18.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pc_engine.datasets.matlab import number, read_struct_array, text
from pc_engine.datasets.records import Box, LabelledImage, LabelledSet, LabelledSetBuilder, beside, first_existing
from pc_engine.errors import DataError
from pc_engine.files.text_values import parse_count

INDEX_FILE = "imgIdx.mat"

#: Parts of the images.
SPLITS = ("train", "test")

# SOS's own open label: "4" stands for at least 4.
_OPEN_LABEL = 4


def read_sos(directory: Path, split: str | None = None) -> LabelledSet:
    """Read SOS or ESOS: counts, no boxes.

    Parameters
    ----------
    directory
        The folder that holds ``imgIdx.mat``.
    split
        One of `SPLITS`, the paper's standard split; all where None.

    Raises
    ------
    DataError
        If the index is absent or of another form, marks no split although one is asked for, or gives no image.
    """
    index = _index(directory)
    builder = LabelledSetBuilder("sos" if split is None else f"sos-{split}", index)
    for place, entry in enumerate(read_struct_array(index, ("name", "label"))):
        if split is not None and "istest" not in entry:
            raise DataError(f"{index} does not mark a test split: ask for all images, without '#{split}'.")
        try:
            if split is not None and bool(number(entry["istest"])) != (split == "test"):
                continue
            builder.add(LabelledImage(_image_path(directory, entry), parse_count(number(entry["label"]))))
        except ValueError as error:
            builder.skip(f"entry {place + 1}", str(error))
    return builder.build()


def read_mso(directory: Path) -> LabelledSet:
    """Read MSO: counts and boxes, as labelled: some have coordinates below 0 (see `clip_to_frame`).

    The count is the label; where that is the open "4+" and more objects are annotated, it is their number.

    Raises
    ------
    DataError
        If the index is absent or of another form, or gives no image.
    """
    index = _index(directory)
    builder = LabelledSetBuilder("mso", index)
    for place, entry in enumerate(read_struct_array(index, ("name", "label", "anno"))):
        try:
            path, boxes = _image_path(directory, entry), _boxes(entry["anno"])
            count = parse_count(number(entry["label"]))
            if count == _OPEN_LABEL:
                count = max(count, len(boxes))
            builder.add(LabelledImage(path, count, boxes=builder.with_area(path, boxes)))
        except ValueError as error:
            builder.skip(f"entry {place + 1}", str(error))
    return builder.build()


def _index(directory: Path) -> Path:
    path = directory / INDEX_FILE
    if path.is_file():
        return path
    others = sorted(directory.glob("*.mat"))
    if len(others) != 1:
        raise DataError(f"{directory} has no {INDEX_FILE}: name the folder into which SOS, ESOS or MSO was unpacked.")
    return others[0]


def _image_path(directory: Path, entry: dict[str, np.ndarray]) -> Path:
    name = text(entry["name"]).strip()
    if not name:
        raise ValueError("it has no name")
    candidates = (beside(directory, name), beside(directory / "img", name))
    return first_existing(candidates) or candidates[0]


def _boxes(annotation: np.ndarray) -> tuple[Box, ...]:
    # An empty annotation without its "empty" mark reads as the two sizes of the empty array.
    if annotation.size in (0, 2):
        return ()
    corners = np.atleast_2d(annotation).astype(np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4 or not np.isfinite(corners).all():
        raise ValueError(f"its annotation has shape {annotation.shape}, expected one finite x0 y0 x1 y1 per object")
    return tuple(Box(x0, y0, x1, y1) for x0, y0, x1, y1 in corners.tolist())
