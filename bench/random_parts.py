"""Random fitted parts, so that the speed of a network can be measured before anything was fitted for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pc_engine.backbone import Taps
from pc_engine.fitted.counter import DEFAULT_LABELS, CountSVM
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.fitting.signatures import SIGNATURE_TAPS
from pc_engine.manifest import Manifest
from pc_engine.model import Model
from pc_engine.modes import Part

#: Of what is random.
SEED = 0


def with_random_parts(model: Model, missing: Sequence[Part], taps: Taps) -> Model:
    """Return the model with random parts, always the same, in the place of the ``missing`` ones.

    Parameters
    ----------
    model
        A model that lacks them.
    missing
        ``"counter"``, ``"signatures"``, both or none.
    taps
        What its network says about some photos: with them the counter is balanced.
    """
    rng = np.random.default_rng(SEED)
    parts = model.parts
    if "counter" in missing:
        parts = replace(parts, counter=_random_counter(model.manifest, taps, rng))
    if "signatures" in missing:
        parts = replace(parts, signatures=_random_signatures(model.manifest, rng))
    return replace(model, parts=parts)


def _random_counter(manifest: Manifest, taps: Taps, rng: np.random.Generator) -> CountSVM:
    """Random weights, and the bias under which every label scores the same on average and varies as much.

    Without it one label would win every photo, and what the mixtures cost depends on the count.
    """
    labels = DEFAULT_LABELS
    sizes = {name: math.prod(manifest.taps[name].shape) for name in manifest.count_features}
    weights = {name: rng.standard_normal((len(labels), size)).astype(np.float32) for name, size in sizes.items()}
    raw = CountSVM(manifest.count_features, labels, weights, np.zeros(len(labels), np.float32))
    scores = raw.scores(taps)
    spread = scores.std(axis=0)
    gain = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 1).astype(np.float32)
    scaled = {name: array * gain[:, None] for name, array in weights.items()}
    return CountSVM(manifest.count_features, labels, scaled, -(scores.mean(axis=0) * gain).astype(np.float32))


def _random_signatures(manifest: Manifest, rng: np.random.Generator) -> SignatureDictionary:
    ranking = {}
    for name in SIGNATURE_TAPS:
        if name in manifest.taps:
            order = np.tile(np.arange(manifest.taps[name].shape[0], dtype=np.int32), (manifest.n_classes, 1))
            ranking[name] = rng.permuted(order, axis=1)
    return SignatureDictionary(ranking, np.ones(manifest.n_classes, bool))
