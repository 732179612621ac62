"""What p2c sees of labelled images, gathered so that mode combined learns how far to believe it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.kernels.array_module import to_host
from pc_engine.manifest import Manifest
from pc_engine.modes import settings_for
from pc_engine.modes.combined import seen_classes
from pc_engine.modes.outcome import split_bad_heat
from pc_engine.modes.p2c_manifest import heat_name
from pc_engine.modes.p2c_settings import P2CSettings


@dataclass(frozen=True, eq=False)
class ClassHeat:
    """Heatmaps of the classes that n images show, as p2c clusters them, and what made them.

    Attributes
    ----------
    maps
        (n, H, W) float32; all 0 for an image that shows nothing, or whose heatmap is none.
    settings
        How the model clusters them: by density peaks.
    signatures
        As in `pc_engine.fitted.cluster_likelihood.ClusterLikelihood`.
    """

    maps: np.ndarray
    settings: P2CSettings
    signatures: str

    def of(self, places: np.ndarray) -> ClassHeat:
        """Return those of the images at ``places``."""
        return replace(self, maps=self.maps[places])


@dataclass(frozen=True, eq=False)
class HeatSource:
    """How a model sees the classes of images: as p2c does.

    Attributes
    ----------
    signatures
        Its signature dictionary; None where it reads the network's evidence.
    settings
        Those of p2c.
    name
        Which heatmaps these are, as in `ClassHeat`.
    """

    signatures: SignatureDictionary | None
    settings: P2CSettings
    name: str

    def maps(self, taps: Taps) -> np.ndarray:
        """Return the heatmaps (N, H, W) of `ClassHeat` for the taps of a batch, which are those that p2c reads."""
        with np.errstate(over="ignore", invalid="ignore"):  # as of a mode: what overflows is no heatmap
            seen = seen_classes(taps, self.signatures, self.settings)
        heat, _ = split_bad_heat(to_host(seen.clustered))
        maps: np.ndarray = np.where(to_host(seen.nothing)[:, None, None], 0, heat).astype(np.float32, copy=False)
        return maps

    def gathered(self, maps: np.ndarray) -> ClassHeat:
        """Return heatmaps (n, H, W) of `maps` with what made them."""
        return ClassHeat(maps, self.settings, self.name)


def heat_source(manifest: Manifest, signatures: SignatureDictionary | None) -> HeatSource:
    """Return how a model with this manifest and these signatures, which it has if it needs any, sees classes."""
    settings = settings_for(manifest).p2c
    name = heat_name(manifest, settings)
    assert name is not None
    return HeatSource(signatures, settings, name)
