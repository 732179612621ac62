"""MNIST-LEGO scenes as a folder of PNGs with ``labels.json``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pc_engine.bench.lego.backgrounds import load_photos
from pc_engine.bench.lego.digits import Split, load_digit_samples, make_bank
from pc_engine.bench.lego.rules import LegoClass, make_classes
from pc_engine.bench.lego.scenes import Scene, SceneSettings, SceneSource
from pc_engine.bench.made_images import image_record, write_images
from pc_engine.errors import UsageError
from pc_engine.files.out_folder import check_vacant

_WRITERS = 2


@dataclass(frozen=True)
class LegoSettings:
    """Which MNIST-LEGO: its classes, digits, backgrounds and scenes.

    Attributes
    ----------
    n_classes, n_digits
        Number of classes and of digits per object (the paper: 100 classes of 3 digits).
    digits
        Folder with MNIST's IDX files; None for the digits that scikit-learn carries.
    backgrounds
        Folder of photos to use as backgrounds, every fifth of them in held-out scenes; None for noise.
    variants
        Augmented variants of each digit.
    scenes
        What scenes look like.
    arrangements
        How the digits of an object may be placed; None for all that differ (`pc_engine.bench.lego.rules`).
    """

    n_classes: int = 20
    n_digits: int = 3
    digits: Path | None = None
    backgrounds: Path | None = None
    variants: int = 400
    scenes: SceneSettings = field(default_factory=SceneSettings)
    arrangements: tuple[str, ...] | None = None

    def classes(self) -> tuple[LegoClass, ...]:
        """Return the classes, numbered from 0."""
        return make_classes(self.n_classes, self.n_digits, arrangements=self.arrangements)

    def source(self, split: Split, seed: int) -> SceneSource:
        """Return the source of scenes built from the digits and photos of ``split``, augmented under ``seed``.

        Raises
        ------
        DataError
            If the digit or photo folder cannot be read.
        """
        bank = make_bank(load_digit_samples(split, self.digits), self.variants, seed)
        photos = None if self.backgrounds is None else load_photos(self.backgrounds, split)
        return SceneSource(self.classes(), bank, self.scenes, photos)


def make_scenes(
    directory: Path,
    n: int,
    seed: int = 0,
    settings: LegoSettings | None = None,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write ``n`` scenes of held-out digits as ``000000.png`` … and their truth as ``labels.json``.

    Parameters
    ----------
    directory
        Folder to write to; it is created, and may exist only if it is empty.
    n
        Number of scenes; counts are uniform over 0..max_count.
    seed
        The same seed and settings give the same bytes.
    settings
        None for the defaults, which are what the embedded model was trained on.
    progress
        Called with the number of scenes written so far.

    Returns
    -------
    The path of ``labels.json``.

    Raises
    ------
    UsageError
        If ``n`` is below 1, or the folder is not empty or cannot be written.
    DataError
        If the digit or photo folder cannot be read.
    """
    settings = settings or LegoSettings()
    if n < 1:
        raise UsageError(f"{n} scenes were asked for; ask for at least 1.")
    check_vacant(directory)
    source = settings.source("held-out", seed)

    def make(index: int) -> tuple[Image.Image, dict[str, Any]]:
        scene = source.scene(seed, index)
        return Image.fromarray(scene.image), _record(scene, source.classes)

    return write_images(
        directory,
        n,
        make,
        name="lego",
        note=f"MNIST-LEGO, seed {seed}, held-out digits",
        classes=[lego_class.name for lego_class in source.classes],
        threads=_WRITERS,
        progress=progress,
    )


def _record(scene: Scene, classes: tuple[LegoClass, ...]) -> dict[str, Any]:
    """Return a scene's entry of ``labels.json``.

    ``dominant`` is the class that the scene was built around (null in an empty scene) and ``class_id`` its number (-1
    in an empty scene).
    """
    height, width = scene.image.shape[:2]
    boxes = [(classes[placed.class_id].name, placed.box) for placed in scene.objects]
    dominant = classes[scene.class_id].name if scene.objects else None
    return image_record(width, height, boxes, dominant, class_id=scene.class_id)
