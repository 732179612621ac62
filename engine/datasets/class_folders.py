"""A folder with one subfolder of images per class, as ImageNet and most classifiers' training sets are laid out."""

from __future__ import annotations

from pathlib import Path

from pc_engine.datasets.records import LabelledImage, LabelledSet, LabelledSetBuilder
from pc_engine.sources.folders import can_be_read, files_below, images_below, is_passed_over


def has_class_folders(root: Path) -> bool:
    """Whether any subfolder of ``root`` holds an image."""
    return any(can_be_read(path) for folder in _subfolders(root) for path in files_below(folder))


def read_class_folders(root: Path) -> LabelledSet:
    """Read the images below each subfolder of ``root``, whose name is their class; hidden subfolders are no classes.

    Small copies that systems keep beside photos, and what else `walk_folder` passes over, are no images.

    Raises
    ------
    DataError
        If there is no image.
    """
    builder = LabelledSetBuilder(root.resolve().name, root)

    def note(path: Path) -> None:
        if not path.name.startswith("."):
            builder.skip(str(path), f"'{path.suffix}' is not the suffix of an image")

    for folder in _subfolders(root):
        for path in images_below(folder, note):
            builder.add(LabelledImage(path, class_name=folder.name))
    return builder.build()


def _subfolders(root: Path) -> list[Path]:
    """Return the subfolders, less what a run has drawn of the photos, if its rows lie beside them."""
    return sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not is_passed_over(path.name, str(root))
    )
