"""MNIST-LEGO scenes (paper section 5): instances of one class of stacked digits on a background, with their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pc_engine.bench.lego.backgrounds import light_field, noise_background, photo_background
from pc_engine.bench.lego.digits import SIDE
from pc_engine.bench.lego.rules import LegoClass, cell_centres
from pc_engine.bench.made_images import LARGEST_PICTURE, check_room, lay_out
from pc_engine.errors import UsageError

#: Ink above this level belongs to an object's box.
INK_LEVEL = 0.35


@dataclass(frozen=True)
class SceneSettings:
    """What scenes look like; lengths are fractions of the image side.

    Attributes
    ----------
    size
        Side of the square image in pixels.
    min_count, max_count
        Counts are uniform over min_count..max_count.
    scale
        Range of an object's longer side. One scale is drawn for each scene; where the objects find no room, it shrinks.
    scale_jitter
        Relative spread of the sizes within a scene.
    spacing
        Least gap between two objects' boxes.
    orientation
        Largest rotation of an object in degrees, to either side.
    contrast
        Range of the brightness difference between ink and background, 0..1.
    lighting
        Largest relative brightness change across the image.
    noise
        Largest amplitude of the background's smooth noise, 0..1; fine noise has a fifth of it.
    strokes
        Largest number of stray strokes drawn into the background.
    classes_per_scene
        Classes present in a scene that is not empty; the first is the dominant one and holds the scene's count, each
        other one has a single object smaller than the largest of the dominant ones.
    """

    size: int = 128
    max_count: int = 6
    scale: tuple[float, float] = (0.25, 0.45)
    scale_jitter: float = 0.12
    spacing: float = 0.04
    orientation: float = 12.0
    contrast: tuple[float, float] = (0.3, 0.8)
    lighting: float = 0.5
    noise: float = 0.16
    strokes: int = 8
    classes_per_scene: int = 1
    min_count: int = 0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 32 <= self.size <= LARGEST_PICTURE or not 0 < low <= high <= 0.9:
            raise UsageError(
                f"Scenes of {self.size} pixels with objects of {low}..{high} of the side cannot be made: use 32 to "
                f"{LARGEST_PICTURE:,} pixels and a scale range within 0..0.9."
            )
        if not 0 <= self.spacing < 1:
            raise UsageError(f"The spacing of objects is {self.spacing:g}, expected a share from 0 to below 1.")
        if not 0 <= self.orientation <= 180 or not 0 <= self.lighting <= 1:
            raise UsageError(
                f"Objects turned by up to {self.orientation:g} degrees, in light that changes by up to "
                f"{self.lighting:g}, cannot be made: use 0 to 180 degrees, and a change from 0 to 1."
            )
        check_room(self.max_count, self.size)
        if not 0 <= self.min_count <= self.max_count or self.classes_per_scene < 1:
            raise UsageError(
                f"Scenes of {self.min_count} to {self.max_count} objects in {self.classes_per_scene} classes cannot be "
                "made: use at least 0 objects, a maximum not below that, and at least 1 class."
            )


@dataclass(frozen=True)
class LegoObject:
    """An object of a scene: the number of its class and its box (x, y, width, height) in pixels."""

    class_id: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A picture with its truth.

    Attributes
    ----------
    image
        uint8 (size, size, 3), RGB.
    class_id
        Class whose instances are counted; -1 in an empty scene.
    objects
        Every object, those of ``class_id`` first.
    """

    image: np.ndarray
    class_id: int
    objects: tuple[LegoObject, ...]

    @property
    def count(self) -> int:
        """Objects of the scene's class."""
        return sum(placed.class_id == self.class_id for placed in self.objects)


@dataclass(frozen=True)
class SceneSource:
    """Everything that a scene is drawn from; ``scene(seed, index)`` is a pure function of it.

    Attributes
    ----------
    classes
        The classes, numbered from 0.
    bank
        Augmented digits to build them from, float32 (10, V, 28, 28): V variants of each.
    settings
        What scenes look like.
    photos
        Background photos, or None for noise.
    """

    classes: tuple[LegoClass, ...]
    bank: np.ndarray
    settings: SceneSettings
    photos: Sequence[np.ndarray] | None = None

    def scene(self, seed: int, index: int) -> Scene:
        """Draw scene ``index`` of the sequence ``seed``."""
        random = np.random.default_rng([seed, index])
        settings = self.settings
        count = int(random.integers(settings.min_count, settings.max_count + 1))
        dominant = int(random.integers(len(self.classes))) if count else -1
        canvas = self._background(random)
        if not count:
            return Scene(_finish(canvas, random, settings), -1, ())
        others = random.permutation([c for c in range(len(self.classes)) if c != dominant])
        members = [dominant] * count + [int(other) for other in others[: settings.classes_per_scene - 1]]
        masks, corners = self._layout(random, members, count)
        _paint(canvas, masks, corners, random, settings)
        objects = tuple(
            LegoObject(class_id, (x, y, mask.shape[1], mask.shape[0]))
            for class_id, mask, (x, y) in zip(members, masks, corners, strict=True)
        )
        return Scene(_finish(canvas, random, settings), dominant, objects)

    def _background(self, random: np.random.Generator) -> np.ndarray:
        size, settings = self.settings.size, self.settings
        if self.photos is not None:
            return photo_background(random, size, self.photos)
        return noise_background(random, size, settings.noise, settings.strokes)

    def _layout(
        self, random: np.random.Generator, members: list[int], count: int
    ) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        """Draw a mask for each member and a place for each mask; shrink the scale until all find room."""
        settings = self.settings
        scale = random.uniform(*settings.scale) * settings.size
        gap = settings.spacing * settings.size

        def masks_at(scale: float) -> list[np.ndarray]:
            masks: list[np.ndarray] = []
            for member, class_id in enumerate(members):
                side = scale * (1 + settings.scale_jitter * random.uniform(-1, 1))
                if member >= count:
                    # A single bystander must not outweigh the objects that are counted.
                    side = 0.8 * max(max(mask.shape) for mask in masks[:count])
                masks.append(self._object_mask(random, self.classes[class_id], side))
            return masks

        return lay_out(
            scale, gap, masks_at, lambda masks, gap: _place(random, [mask.shape for mask in masks], settings.size, gap)
        )

    def _object_mask(self, random: np.random.Generator, lego_class: LegoClass, side: float) -> np.ndarray:
        """Stack digits into an object, turn it and bring its longer side to ``side`` pixels; cut to its ink."""
        centres = cell_centres(lego_class.arrangement, len(lego_class.digits))
        centres = centres + random.uniform(-1.5, 1.5, centres.shape)
        centres -= centres.min(axis=0)
        width, height = np.ceil(centres.max(axis=0)).astype(int) + SIDE
        canvas = np.zeros((height, width), np.float32)
        variants = random.integers(0, self.bank.shape[1], len(lego_class.digits))
        for digit, variant, (x, y) in zip(lego_class.digits, variants, np.rint(centres).astype(int), strict=True):
            window = canvas[y : y + SIDE, x : x + SIDE]
            np.maximum(window, self.bank[digit, variant], out=window)
        x0, y0, x1, y1 = _ink_bounds(canvas)
        ink = canvas[y0:y1, x0:x1]
        # Turning before shrinking keeps thin strokes whole; the resampling filter of resize avoids aliasing.
        angle = self.settings.orientation * random.uniform(-1, 1)
        turned = Image.fromarray((ink * 255).astype(np.uint8)).rotate(angle, Image.Resampling.BILINEAR, expand=True)
        cut = turned.crop(_ink_bounds(np.asarray(turned) / 255))
        factor = side / max(cut.size)
        target = (max(3, round(cut.width * factor)), max(3, round(cut.height * factor)))
        return np.asarray(cut.resize(target, Image.Resampling.BICUBIC), np.float32) / 255


def _ink_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return (x0, y0, x1, y1) of the ink."""
    inked = mask > INK_LEVEL
    columns, rows = np.flatnonzero(inked.any(axis=0)), np.flatnonzero(inked.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _place(
    random: np.random.Generator, shapes: list[tuple[int, ...]], size: int, gap: float
) -> list[tuple[int, int]] | None:
    """Find a corner (x, y) for each (height, width) such that boxes keep ``gap`` apart; None where it fails."""
    placed: list[tuple[int, int, int, int]] = []
    for height, width in shapes:
        if height > size or width > size:
            return None
        for _ in range(20):
            x, y = int(random.integers(0, size - width + 1)), int(random.integers(0, size - height + 1))
            if all(
                x >= px + pw + gap or px >= x + width + gap or y >= py + ph + gap or py >= y + height + gap
                for px, py, pw, ph in placed
            ):
                placed.append((x, y, width, height))
                break
        else:
            return None
    return [(x, y) for x, y, _, _ in placed]


def _paint(
    canvas: np.ndarray,
    masks: list[np.ndarray],
    corners: list[tuple[int, int]],
    random: np.random.Generator,
    settings: SceneSettings,
) -> None:
    """Blend every object into ``canvas`` (float32, 0..1) in a colour that stands out from what lies beneath."""
    brighter = bool(random.integers(2))
    tint = random.uniform(-0.15, 0.15, 3)
    contrast = random.uniform(*settings.contrast)
    for mask, (x, y) in zip(masks, corners, strict=True):
        window = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
        beneath = window.mean(axis=(0, 1))
        room = 1 - beneath.mean() if brighter else beneath.mean()
        # Where the ground leaves no room on the scene's side of it, the ink goes to the other side.
        sign = (1 if brighter else -1) * (1 if room > settings.contrast[0] else -1)
        ink = beneath.mean() + sign * contrast * random.uniform(0.85, 1.15) + tint + random.uniform(-0.05, 0.05, 3)
        window += mask[:, :, None] * (np.clip(ink, 0, 1).astype(np.float32) - window)


def _finish(canvas: np.ndarray, random: np.random.Generator, settings: SceneSettings) -> np.ndarray:
    """Light the scene, add the camera's fine noise and round to uint8."""
    lit = canvas * light_field(random, settings.size, settings.lighting)[:, :, None]
    grain = random.standard_normal((settings.size, settings.size, 1), dtype=np.float32)
    lit += grain * np.float32(random.uniform(0, settings.noise / 5))
    return np.asarray(np.clip(lit * 255 + 0.5, 0, 255).astype(np.uint8))
