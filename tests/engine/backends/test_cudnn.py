"""cuDNN on a GPU, where there is one."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from pc_engine.backends.cudnn import CudnnBackend
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.candidates import TOLERANCE, probe_images, tap_difference
from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.engine import network_request
from pc_engine.model import load_model

BACKEND = CudnnBackend()


@pytest.fixture
def on_a_gpu():
    """Skips where there is no GPU with cuDNN."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    probe = BACKEND.probe("cuda:0")
    if not probe.available:
        pytest.skip(probe.reason)


@pytest.fixture
def lego():
    model = load_model(EMBEDDED_DIRECTORY)
    request = network_request(model, tuple(model.manifest.taps), batch_size=8)
    return replace(request, device="cuda:0", precision="fp16")


def on_host(taps):
    return {name: tap.get() for name, tap in taps.items()}


@pytest.fixture
def expected(lego):
    images = probe_images(128, 128, 8)
    return images, OnnxRuntimeBackend().compile(replace(lego, device="cpu", precision="fp32")).infer(images)


@pytest.mark.gpu
def test_taps_are_the_references(on_a_gpu, lego, expected, tmp_path):
    images, taps = expected
    network = BACKEND.compile(lego, save_to=tmp_path / "saved")
    assert network.remarks == ()
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"] / 2
    network.close()
    again = BACKEND.load(lego, tmp_path / "saved")
    assert tap_difference(on_host(again.infer(images)), taps) < TOLERANCE["fp16"] / 2
    again.close()


@pytest.mark.gpu
def test_batches_in_flight_do_not_mix(on_a_gpu, lego, expected):
    import cupy

    images, _ = expected
    network = BACKEND.compile(lego)
    alone = on_host(network.infer(images))

    def run(k):
        batch = np.roll(images, k, axis=0)[: 8 - k % 3]
        return k, on_host(network.infer(cupy.asarray(batch) if k % 2 else batch))

    with ThreadPoolExecutor(4) as pool:
        for k, found in pool.map(run, range(24)):
            for name, tap in found.items():
                np.testing.assert_array_equal(tap, np.roll(alone[name], k, axis=0)[: 8 - k % 3])
    network.close()


@pytest.mark.gpu
def test_pixels_that_are_scaled_in_the_graph(on_a_gpu, tiny_directory):
    model = load_model(tiny_directory)
    request = network_request(model, tuple(model.manifest.taps), batch_size=4)
    images = probe_images(64, 64, 4)
    network = BACKEND.compile(replace(request, device="cuda:0", precision="fp16"))
    taps = OnnxRuntimeBackend().compile(request).infer(images)
    assert tap_difference(on_host(network.infer(images)), taps) < TOLERANCE["fp16"]
