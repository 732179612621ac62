"""One word for a labelled data set, as the command line takes it, to its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pc_engine.datasets.class_folders import has_class_folders, read_class_folders
from pc_engine.datasets.coco import is_coco, parse_coco, read_coco
from pc_engine.datasets.cvat import read_cvat
from pc_engine.datasets.label_studio import is_label_studio, parse_label_studio, read_label_studio
from pc_engine.datasets.labels_json import LABELS_JSON, parse_labels, read_labels_json
from pc_engine.datasets.records import LabelledSet, read_json
from pc_engine.datasets.reviewed_run import read_reviewed_run
from pc_engine.datasets.sos import SPLITS as SOS_SPLITS
from pc_engine.datasets.sos import read_mso, read_sos
from pc_engine.datasets.table import LABELS_CSV, parse_records, read_csv, read_json_lines
from pc_engine.datasets.voc import has_annotations, read_voc
from pc_engine.datasets.yolo import SPLITS as YOLO_SPLITS
from pc_engine.datasets.yolo import read_yolo
from pc_engine.errors import DataError
from pc_engine.files.file_address import at_home
from pc_engine.sources.run_folders import state_files

#: The forms of a specification, for help texts and errors.
KNOWN_FORMS = (
    "a folder with labels.json or labels.csv, or one that 'convert --to csv' made",
    "a folder of folders with labels.json, which are read as one set",
    "a folder with one subfolder of images per class",
    "a CSV, JSON or JSON Lines file with a path and a count or class per image",
    "lego:DIR (a folder with labels.json)",
    "sos:DIR, sos:DIR#train or sos:DIR#test (SOS and ESOS as distributed)",
    "mso:DIR (MSO as distributed)",
    "coco:FILE or coco:FILE@IMAGES_DIR (COCO instances)",
    "the folder of a run, run:DIR or run:DIR@PHOTOS_DIR (its reviewed images, in the folder where they are now)",
    "label-studio:FILE or label-studio:FILE@IMAGES_DIR (exported from Label Studio as JSON)",
    "cvat:FILE or cvat:FILE@IMAGES_DIR (exported from CVAT as 'CVAT for images 1.1')",
    "yolo:FILE, or yolo:FILE#train, #val or #test (the YAML file of a YOLO data set)",
    "voc:DIR, voc:DIR#train (or another list of ImageSets/Main/) or voc:DIR@IMAGES_DIR (Pascal VOC: Annotations/ and "
    "JPEGImages/, or XML files beside their images)",
)


# Files that may hold labels, whatever their names; and one that says of a data set what is in it.
_OF_LABELS = frozenset({".csv", ".tsv", ".json", ".jsonl"})
_DESCRIPTION = "conversion.json"
# The table of images that `pc-engine convert --to csv` makes, and the file that YOLO's data sets are named by.
_COUNTS_CSV, _YOLO_FILE = "counts.csv", "data.yaml"
_WORKBOOKS = frozenset({".xls", ".xlsx", ".xlsm", ".ods", ".numbers"})


def read_labelled(spec: str) -> LabelledSet:
    """Read the labelled data that ``spec`` names.

    Parameters
    ----------
    spec
        One of :data:`KNOWN_FORMS`. A ``labels.json`` goes before a ``labels.csv``, that before ``Annotations/`` with
        XML files, that before other subfolders, that before the rows of a run, and these before ``counts.csv``.

    Returns
    -------
    LabelledSet
        The images that can be used, and those that cannot with the reason.

    Raises
    ------
    DataError
        If the form is not known, the data is not of the form, or none of its images can be used.
    MissingPackageError
        If the data is a MATLAB 7.3 file and h5py is not installed.
    """
    kind, colon, rest = spec.partition(":")
    if rest and kind in _READERS:
        return _READERS[kind](rest)
    path = at_home(spec)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path)
    if not colon:
        raise DataError(f"There is no file or folder '{spec}': check its name.")
    raise DataError(f"'{spec}' is not a file, a folder or another form of labelled data. {_forms()}")


def _forms() -> str:
    return "\n  ".join(("Known forms:", *KNOWN_FORMS))


def _read_folder(path: Path) -> LabelledSet:
    if (path / LABELS_JSON).is_file():
        return read_labels_json(path / LABELS_JSON)
    if (path / LABELS_CSV).is_file():
        return read_csv(path / LABELS_CSV)
    if several := sorted(path.glob(f"*/{LABELS_JSON}")):
        return _as_one(path, [read_labels_json(labels) for labels in several])
    if has_annotations(path):
        return read_voc(path)
    if has_class_folders(path):
        return read_class_folders(path)
    if state_files(path):
        return read_reviewed_run(path)
    if (path / _COUNTS_CSV).is_file():
        return read_csv(path / _COUNTS_CSV)
    if (path / _YOLO_FILE).is_file():
        raise DataError(f"{path} is the folder of a YOLO data set: write 'yolo:{path / _YOLO_FILE}'.")
    named = (file for file in path.iterdir() if file.suffix.lower() in _OF_LABELS and file.name != _DESCRIPTION)
    if tables := sorted(named):
        raise DataError(
            f"{path} has no {LABELS_JSON} or {LABELS_CSV}: name the file of its labels, such as {tables[0]}."
        )
    raise DataError(f"{path} holds no labels of a known form. {_forms()}")


def _as_one(path: Path, sets: Sequence[LabelledSet]) -> LabelledSet:
    """Return the images of all sets; their class numbers go, as each set counts its own classes from 0."""
    images = tuple(replace(image, class_id=None) for one in sets for image in one.images)
    skipped = tuple(item for one in sets for item in one.skipped)
    return LabelledSet(path.resolve().name, images, skipped, sum(one.by_run for one in sets))


def _read_file(path: Path) -> LabelledSet:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return read_csv(path)
    if suffix == ".jsonl":
        return read_json_lines(path)
    if suffix == ".xml":
        return read_cvat(path)
    if suffix in _WORKBOOKS:
        raise DataError(f"{path} is a workbook, which is not read: save it as CSV UTF-8, and name that file.")
    if suffix != ".json":
        raise DataError(f"{path} is not a file of labels: these end in .csv, .tsv, .json, .jsonl or .xml. {_forms()}")
    raw = read_json(path)
    if is_coco(raw):
        return parse_coco(raw, path)
    if is_label_studio(raw):
        return parse_label_studio(raw, path)
    return parse_records(raw, path) if isinstance(raw, list) else parse_labels(raw, path)


def _read_lego(rest: str) -> LabelledSet:
    labels = at_home(rest) / LABELS_JSON
    if not labels.is_file():
        raise DataError(f"{labels.parent} has no {LABELS_JSON}: make one with 'pc-engine lego make'.")
    return read_labels_json(labels)


def _read_coco(rest: str) -> LabelledSet:
    file, folder = _two_paths(rest, Path.is_file)
    if folder is not None and not folder.is_dir():
        raise DataError(f"The images folder {folder} of coco:{rest} does not exist.")
    return read_coco(file, folder)


def _and_split(rest: str, exists: Callable[[Path], bool]) -> tuple[str, str | None]:
    """Return a path's text and what a '#' has behind it, if anything; what ``exists`` may have a '#' of its own."""
    text, hash_sign, split = rest.rpartition("#")
    return (text, split) if hash_sign and not exists(at_home(rest)) else (rest, None)


def _two_paths(rest: str, exists: Callable[[Path], bool]) -> tuple[Path, Path | None]:
    """Return a path that ``exists`` and what an '@' has behind it, if anything; both may hold an '@' of their own."""
    places = [k for k, letter in enumerate(rest) if letter == "@"]
    if not places or exists(at_home(rest)):
        return at_home(rest), None
    at = next((k for k in reversed(places) if exists(at_home(rest[:k]))), places[-1])
    return at_home(rest[:at]), at_home(rest[at + 1 :])


def _read_voc(rest: str) -> LabelledSet:
    def is_set(path: Path) -> bool:
        directory, split = _and_split(str(path), Path.is_dir)
        return "@" not in (split or "") and at_home(directory).is_dir()

    named, images = _two_paths(rest, is_set)
    if not is_set(named):
        return read_voc(named, images)  # which names it as it was typed
    directory, split = _and_split(str(named), Path.is_dir)
    return read_voc(at_home(directory), images, split)


def _known_split(
    kind: str, rest: str, exists: Callable[[Path], bool], splits: Sequence[str]
) -> tuple[Path, str | None]:
    """Return what `_and_split` does, of one of these splits."""
    path, split = _and_split(rest, exists)
    if split is not None and split not in splits:
        raise DataError(
            f"The split '{split}' of {kind}:{rest} is not known: write #{', #'.join(splits)}, or nothing for all "
            f"images."
        )
    return at_home(path), split


# What reads each kind, of what stands behind its colon.
_READERS: Mapping[str, Callable[[str], LabelledSet]] = {
    "lego": _read_lego,
    "sos": lambda rest: read_sos(*_known_split("sos", rest, Path.is_dir, SOS_SPLITS)),
    "mso": lambda rest: read_mso(at_home(rest)),
    "coco": _read_coco,
    "run": lambda rest: read_reviewed_run(*_two_paths(rest, Path.is_dir)),
    "label-studio": lambda rest: read_label_studio(*_two_paths(rest, Path.is_file)),
    "cvat": lambda rest: read_cvat(*_two_paths(rest, Path.is_file)),
    "yolo": lambda rest: read_yolo(*_known_split("yolo", rest, Path.is_file, YOLO_SPLITS)),
    "voc": _read_voc,
}
