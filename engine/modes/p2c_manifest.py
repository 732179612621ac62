"""What a model's manifest means to point-then-count: what is read of the network, and which settings suit it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pc_engine.manifest import EVIDENCE, SIGNATURE_SETTING, SIGNATURES_FILE, Manifest
from pc_engine.modes.grid import USUAL_GRID, grid_side
from pc_engine.modes.p2c_settings import P2CSettings
from pc_engine.modes.salience import CLASS_HEAT_SETTING, heat_taps, map_taps

# Cells a side from which on maps are fine. Settings were measured with 7 (MobileNetV2) and 14 (VGG16, MobileNetV2).
_FINE_GRID = 10
# How many maps of a layer a dictionary's signature selects.
_TOP_SETTINGS = {"conv_last": "p2c.top_last", "conv_prev": "p2c.top_prev"}
# The settings that say what is clustered, not how.
_HEAT_SETTINGS = ("top_last", "top_prev", "top_evidence", "mean_factor", "softness")


def p2c_taps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps that `pc_engine.modes.p2c.p2c` reads; no other output of the network has to be computed.

    Raises
    ------
    ManifestError
        If the class's heatmap is to be weighed with taps that the network does not have, or that are no maps.
    """
    evidence = (EVIDENCE,) if signature_source(manifest) == EVIDENCE else ()
    return tuple(dict.fromkeys((*_class_maps(manifest), "logits", *evidence, *_weighed_with(manifest))))


def _class_maps(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps whose maps give the class's heatmap."""
    if signature_source(manifest) == EVIDENCE:
        return (manifest.evidence_maps,)
    return ("conv_prev", "conv_last") if "conv_prev" in manifest.taps else ("conv_last",)


def _ranked_maps(manifest: Manifest) -> tuple[str, ...]:
    """Return `_class_maps` without a layer of which the settings take no map; all, where they take none at all."""
    maps = _class_maps(manifest)
    if signature_source(manifest) == EVIDENCE:
        return maps
    return tuple(name for name in maps if manifest.settings.get(_TOP_SETTINGS[name]) != 0) or maps


def _weighed_with(manifest: Manifest) -> tuple[str, ...]:
    """Return the taps of `P2CSettings.heat`: unless the manifest sets them, those that suit its signatures.

    The evidence speaks of the last maps alone; a dictionary ranks those before as well.
    """
    evidence = signature_source(manifest) == EVIDENCE
    return heat_taps(manifest, CLASS_HEAT_SETTING, "conv_prev" if evidence and "conv_prev" in manifest.taps else "")


def signature_source(manifest: Manifest) -> str:
    """Return where P2C takes this model's signatures from.

    That is what its manifest sets, else the dictionary where one was fitted, else the network's evidence if it gives
    any.
    """
    unfitted = EVIDENCE in manifest.taps and SIGNATURES_FILE not in manifest.files
    return str(manifest.settings.get(SIGNATURE_SETTING, EVIDENCE if unfitted else "dictionary"))


def heat_name(manifest: Manifest, settings: P2CSettings) -> str | None:
    """Return which heatmaps are clustered; None where a dictionary should be read and there is none.

    They are named by the sha256 of the dictionary, or "evidence", the taps that they are weighed with, and the settings
    that make them where these are not the usual ones.
    """
    name = EVIDENCE if settings.signature == EVIDENCE else manifest.files.get(SIGNATURES_FILE)
    values = {key: getattr(settings, key) for key in _HEAT_SETTINGS}
    unusual = [f"{key}={value:g}" for key, value in values.items() if value != getattr(P2CSettings, key)]
    return name and " ".join((name, *settings.heat.split(), *unusual))


def p2c_defaults(manifest: Manifest, cluster: str | None = None) -> dict[str, Any]:
    """Return the settings that suit this model's signatures and grid where they differ from those of `P2CSettings`.

    Maps weighed by the class leave less background than maps that a dictionary selects, so that density peaks need
    nothing subtracted, and weaker and closer ones are objects, too. Heat that is weighed with what is salient has less
    background still; there a soft clamp and prominences count more images right, by steadier counts
    (``bench/results/p2c-steadier.json``), if peaks may rise less where the class's own maps are coarse. DBSCAN, told by
    ``cluster``, takes gaps to tell objects apart, which the evidence alone has too few of, and a soft clamp leaves
    none. Lengths grow with the grid, whose size is the network's.
    """
    class_side = _finest_side(manifest, _ranked_maps(manifest))
    scale = _finest_side(manifest, p2c_taps(manifest)) / USUAL_GRID
    evidence, weighed_with = signature_source(manifest) == EVIDENCE, _weighed_with(manifest)
    by_peaks = cluster in (None, "density-peaks")
    cutoff, min_distance = P2CSettings.cutoff, P2CSettings.min_distance
    defaults: dict[str, Any] = {"heat": " ".join(weighed_with)}
    if evidence:
        defaults["signature"] = EVIDENCE
    if evidence and (weighed_with or by_peaks):
        defaults["mean_factor"] = 0.0
    if weighed_with and by_peaks:
        cutoff, prominence = (1.4, 0.1) if class_side >= _FINE_GRID else (1.2, 0.05)
        min_distance = 3.0
        # Clamped softly a cluster reaches further, so that its box is trimmed more.
        defaults |= {"softness": 0.05, "min_density": 0.4, "prominence": prominence, "trim": 0.6}
    elif evidence:
        cutoff, min_distance = 1.0, 2.0
        defaults["min_density"] = 0.3
    return defaults | {"cutoff": cutoff * scale, "min_distance": min_distance * scale}


def _finest_side(manifest: Manifest, taps: Iterable[str]) -> float:
    """Return the side of the finest grid among those of these taps that are maps."""
    return max(grid_side(*manifest.taps[name].shape[1:]) for name in {*taps}.intersection(map_taps(manifest)))
