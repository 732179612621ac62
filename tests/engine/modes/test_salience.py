from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.errors import ManifestError
from pc_engine.kernels import mean_heatmap, resize_maps
from pc_engine.manifest import Manifest, Tap
from pc_engine.modes.salience import Salience, heat_taps, map_taps, salient_heatmap, shared_heatmap

heatmaps = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).gamma(0.3, size=(4, 6, 8)) ** 2  # sparse and peaked
)


def test_salient_heat_is_that_of_the_taps_multiplied_on_the_finest_grid() -> None:
    rng = np.random.default_rng(0)
    taps = {"coarse": rng.normal(size=(2, 3, 4, 4)), "fine": rng.normal(size=(2, 5, 8, 8)), "other": np.zeros((2, 1))}
    coarse, fine = mean_heatmap(taps["coarse"]), mean_heatmap(taps["fine"])
    np.testing.assert_array_equal(salient_heatmap(taps, Salience("fine")), fine)
    expected = resize_maps(coarse, 8, 8) * fine / fine.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(salient_heatmap(taps, Salience("coarse  fine")), expected)
    np.testing.assert_array_equal(salient_heatmap(taps, Salience("fine", 0.0)), mean_heatmap(taps["fine"], 0.0))
    softly = salient_heatmap(taps, Salience("fine", softness=0.3))
    np.testing.assert_array_equal(softly, mean_heatmap(taps["fine"], 1.0, 0.3))
    assert (softly > fine).any()


@settings(max_examples=50)
@given(heats=heatmaps, other=heatmaps)
def test_shared_heat_is_the_product_or_the_first_alone(heats: np.ndarray, other: np.ndarray) -> None:
    shared = shared_heatmap(heats, other)
    peaks = other.max(axis=(1, 2))
    for n, (one, two) in enumerate(zip(heats, other, strict=True)):
        product = one * two / (peaks[n] or 1)
        np.testing.assert_allclose(shared[n], product if product.any() else one, rtol=1e-12)


@settings(max_examples=50)
@given(heats=heatmaps, other=heatmaps, powers=st.tuples(st.floats(0, 3), st.floats(0.1, 3)))
def test_each_heat_counts_as_its_power_says(heats: np.ndarray, other: np.ndarray, powers: tuple[float, float]) -> None:
    shared = shared_heatmap(heats, other, powers=powers)
    for n, maps in enumerate(zip(heats, other, strict=True)):
        one, two = (heat / (heat.max() or 1) for heat in maps)
        product = one ** powers[0] * two ** powers[1]
        np.testing.assert_allclose(shared[n], product if product.any() else one ** powers[0], rtol=1e-9)


def test_a_power_takes_heat_of_any_scale() -> None:
    heats = np.random.default_rng(0).random((2, 6, 8)).astype(np.float32)
    expected = shared_heatmap(heats, heats, powers=(2.0, 3.0))
    assert expected.any()
    for scale in (2.0**-100, 2.0**100):  # whose squares float32 does not hold
        np.testing.assert_array_equal(shared_heatmap(heats * np.float32(scale), heats, powers=(2.0, 3.0)), expected)


def test_heat_that_one_of_several_taps_refuses_is_refused() -> None:
    heats = np.random.default_rng(0).random((3, 6, 8))
    other = heats.copy()
    other[0, 3, 3], heats[1, 0, 0] = np.inf, np.nan
    for powers in (None, (0.0, 1.5)):
        shared = shared_heatmap(heats, other, powers=powers)
        assert np.isnan(shared[:2]).all()
        assert np.isfinite(shared[2]).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_no_power_hides_from_a_device_what_its_kernels_refuse(pretended_gpu: Any, power: float) -> None:
    import cupy

    heats = np.random.default_rng(0).random((4, 6, 8))
    heats[0, 3, 3], heats[1, 0, 0], heats[2, 5, 1] = np.inf, np.nan, -1
    sound = np.ones_like(heats)
    for both, powers in (((heats, sound), (power, 1.0)), ((sound, heats), (1.0, power))):
        shared = shared_heatmap(*(cupy.asarray(each) for each in both), powers=powers).get()
        accepted = ((shared >= 0) & (shared < np.inf)).all(axis=(1, 2))
        np.testing.assert_array_equal(accepted, [False, False, False, True])


def test_the_taps_that_a_setting_names_have_to_be_maps(tiny_manifest: Manifest) -> None:
    manifest = replace(tiny_manifest, taps={**tiny_manifest.taps, "fine": Tap("fine", (4, 14, 14))})
    assert set(map_taps(manifest)) == {"conv_last", "conv_prev", "fine"}
    assert heat_taps(manifest, "p2c.heat", "") == ()
    assert heat_taps(manifest, "p2c.heat", "conv_last") == ("conv_last",)
    assert heat_taps(replace(manifest, settings={"p2c.heat": "fine  fine"}), "p2c.heat", "conv_last") == ("fine",)
    for wrong in ("logits", "conv_last finer"):
        with pytest.raises(ManifestError, match=rf"sets 'p2c\.heat' to '{wrong}', but has no maps called "):
            heat_taps(replace(manifest, settings={"p2c.heat": wrong}), "p2c.heat", "")
