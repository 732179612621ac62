"""The heat of all that is salient, whatever its class: where layers' maps are warm (paper 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.errors import ManifestError
from pc_engine.kernels import mean_heatmap, resize_maps, scale_to_peak
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.manifest import Manifest
from pc_engine.modes.outcome import mark_bad, split_bad_heat

#: The settings that name the taps whose heat is what is salient: to c2p and combined, and to p2c, which weighs that of
#: the class with it.
SALIENT_SETTING, CLASS_HEAT_SETTING = "c2p.heat", "p2c.heat"
#: Multiple of a heatmap's mean that is subtracted before clamping at 0.
MEAN_FACTOR = 1.0


def map_taps(manifest: Manifest) -> list[str]:
    """Return the taps whose heat can be asked for: those that are maps."""
    return [name for name, tap in manifest.taps.items() if tap.is_maps]


def heat_taps(manifest: Manifest, setting: str, usual: str) -> tuple[str, ...]:
    """Return the taps that the manifest's ``setting`` names, spaces between them, or else ``usual`` does.

    Raises
    ------
    ManifestError
        If the network does not have one of them, or it is no maps.
    """
    named = str(manifest.settings.get(setting, usual)).split()
    maps = map_taps(manifest)
    if missing := [name for name in named if name not in maps]:
        raise ManifestError(
            f"The manifest of '{manifest.name}' sets '{setting}' to '{' '.join(named)}', but has no maps "
            f"called {' or '.join(missing)}: choose among {', '.join(maps)}."
        )
    return tuple(dict.fromkeys(named))


@dataclass(frozen=True)
class Salience:
    """What is salient: where the maps of taps are warm.

    Attributes
    ----------
    heat
        The taps, spaces between their names.
    mean_factor, softness
        How their maps are clamped; see `pc_engine.kernels.mean_heatmap`.
    """

    heat: str
    mean_factor: float = MEAN_FACTOR
    softness: float = 0.0


def salient_heatmap(taps: Taps, salience: Salience) -> Array:
    """Return the heatmap (N, H, W) of all that is salient, on the finest grid of the taps."""
    heats = (mean_heatmap(taps[name], salience.mean_factor, salience.softness) for name in salience.heat.split())
    return shared_heatmap(*heats)


def shared_heatmap(first: Array, *others: Array, powers: Sequence[float] | None = None) -> Array:
    """Return the product of heatmaps (N, H, W) on the finest of their grids; NaN for an image where one is refused.

    Each is raised to its one of ``powers``, if there are any. Where they share no cell the first stands alone, so that
    what is counted is pointed at.
    """
    if not others:
        return first
    xp = get_array_module(first)
    height, width = np.max([heat.shape[1:] for heat in (first, *others)], axis=0).tolist()
    first, bad = split_bad_heat(first)
    if powers is not None:
        first = scale_to_peak(first)  # a power of which cannot overflow
    power, *other_powers = powers or [1.0] * (1 + len(others))
    shared = first = raised_heatmap(resize_maps(first, height, width), power)
    refused = [bad]
    for other, power in zip(others, other_powers, strict=True):
        heat, bad = split_bad_heat(other)
        # Their ratios alone matter, and below 1 the product cannot overflow.
        shared = raised_heatmap(resize_maps(scale_to_peak(heat), height, width), power) * shared
        refused.append(bad)
    shared = xp.where((shared == 0).all(axis=(1, 2), keepdims=True), first, shared)
    for bad in refused:
        shared = mark_bad(bad, np.nan, shared)
    return shared


def raised_heatmap(heat: Array, power: float) -> Array:
    """Return a heatmap (N, H, W) to a power; NaN on a device where it is negative or not finite."""
    if power == 1:
        return heat
    xp = get_array_module(heat)
    if xp is np:
        return heat**power
    # A device's kernels find by themselves what is refused, which some powers would hide.
    return xp.where((heat >= 0) & (heat < xp.inf), heat**power, xp.nan)
