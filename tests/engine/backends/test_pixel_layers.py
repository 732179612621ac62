"""A layer that reads pixels gives the same whoever runs it, and the faster way is taken and remembered."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from pc_engine.backends import pixel_layers
from pc_engine.backends.array_layers import Convolution, Layer
from pc_engine.backends.cudnn_plans import Plan
from pc_engine.backends.pixel_layers import OWN, choose_way, convolve_columns, convolve_pixels, with_columns_gathered

PLAN = Plan(2, "fast")
RNG = np.random.default_rng(0)


def layer_of(window=(3, 3), filters=8, **settings):
    convolution = Convolution((2, 9, 11, 4), filters, window, relu=True, **settings)
    weights = (RNG.standard_normal(convolution.weights) / 64).astype(np.float16)
    return Layer(convolution, weights, RNG.standard_normal(filters).astype(np.float16), constant=0.5)


def convolved(layer, x, weights, bias):
    """What cuDNN does, by a kernel of this project: a layer of maps that has one group and no dilation."""
    made = layer.convolution
    assert x.shape == made.images
    assert weights.shape == made.weights
    top, left, bottom, right = made.pads
    padded = np.pad(x.astype(np.float32), ((0, 0), (top, bottom), (left, right), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, made.window, axis=(1, 2))
    windows = windows[:, :: made.stride[0], :: made.stride[1]]
    sums = np.einsum("nyxcrs,frsc->nyxf", windows, weights.astype(np.float32)) + bias
    return np.clip(sums, *made.bounds).astype(np.float16)


@pytest.mark.parametrize(
    "settings",
    [
        {"pads": (1, 1, 1, 1)},
        {"pads": (0, 2, 1, 0), "stride": (2, 1), "ceiling": 1.0},
        {"window": (2, 5), "stride": (1, 3)},
        {"window": (1, 1), "filters": 5},
    ],
    ids=str,
)
def test_both_ways_give_the_same(settings):
    layer = layer_of(**settings)
    images = RNG.integers(0, 256, (2, 9, 11, 3), np.uint8)
    own = convolve_pixels(layer, images, layer.weights, layer.bias)
    columns = with_columns_gathered(layer)
    assert columns.constant is None
    assert columns.convolution.images[3] % 8 == 0
    by_columns = convolve_columns(layer, lambda *arrays: convolved(columns, *arrays))
    assert own.shape == layer.convolution.result == columns.convolution.result
    found = by_columns(images, columns.weights, columns.bias)
    np.testing.assert_allclose(own, found, rtol=1e-3, atol=1e-3)


def test_a_layer_of_maps_has_no_columns_to_gather():
    layer = replace(layer_of(), constant=None)
    assert with_columns_gathered(layer) is layer


@pytest.fixture
def seconds(monkeypatch):
    """Seconds that cuDNN's way takes, and this project's."""
    taken = {"cudnn": 2.0, "own": 1.0}
    monkeypatch.setitem(sys.modules, "cupy", np)
    monkeypatch.setattr(pixel_layers, "Kernel", lambda *_: lambda *arrays: "cudnn")
    monkeypatch.setattr(pixel_layers, "pixel_convolution", lambda *_, **__: "own")
    return taken


def test_the_faster_way_is_taken_and_remembered(seconds):
    timed = []

    def time(run, times):
        timed.append(run())
        return seconds[timed[-1]]

    layer, known = layer_of(), {}
    assert choose_way(None, None, layer, PLAN, time, known) == OWN
    assert timed == ["cudnn", "own"]
    seconds["own"] = 3.0
    assert choose_way(None, None, layer, PLAN, time, known) == OWN
    assert choose_way(None, None, layer, PLAN, time, {}) == PLAN
    assert len(timed) == 4
    slower = {key: Plan(7, "of another day") for key in known}
    assert choose_way(None, None, layer, PLAN, time, slower) == PLAN
    assert len(timed) == 4


@pytest.mark.parametrize("layer", [layer_of(window=(7, 7)), layer_of(filters=9)], ids=["window", "filters"])
def test_where_there_is_no_kernel_nothing_is_timed(layer):
    def time(run, times):
        raise AssertionError("timed")

    assert choose_way(None, None, layer, PLAN, time, {}) == PLAN
