"""A folder with one subfolder of images per class, as ImageNet and most classifiers' training sets are laid out."""

from __future__ import annotations

from pathlib import Path

from pc_engine.datasets.records import LabelledImage, LabelledSet, LabelledSetBuilder
from pc_engine.sources import IMAGE_SUFFIXES
from pc_engine.sources.run_folders import holds_overlays


def has_class_folders(root: Path) -> bool:
    """Whether any subfolder of ``root`` holds an image."""
    return any(path.suffix.lower() in IMAGE_SUFFIXES for folder in _subfolders(root) for path in folder.rglob("*"))


def read_class_folders(root: Path) -> LabelledSet:
    """Read the images below each subfolder of ``root``, whose name is their class; hidden files are ignored.

    Raises
    ------
    DataError
        If there is no image.
    """
    builder = LabelledSetBuilder(root.resolve().name, root)
    for folder in _subfolders(root):
        for path in sorted(folder.rglob("*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in IMAGE_SUFFIXES:
                builder.add(LabelledImage(path, class_name=folder.name))
            else:
                builder.skip(str(path), f"'{path.suffix}' is not the suffix of an image")
    return builder.build()


def _subfolders(root: Path) -> list[Path]:
    """Return the subfolders, less what a run has drawn of the photos, if its rows lie beside them."""
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(path for path in folders if not holds_overlays(path.name, root))
