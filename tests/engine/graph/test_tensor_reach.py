"""Batches whose tensors a GPU's libraries can address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pc_engine.export.vgg import export_vgg
from pc_engine.export.vgg_graph import VggSpec
from pc_engine.graph import prepare as graph
from pc_engine.graph import tensor_reach
from pc_engine.model import Model, load_model
from pc_engine.networks import network_request, open_network
from pc_engine.selection.execution import Execution

# Of the tiny network: its pixels.
_VALUES = 64 * 64 * 3


@pytest.fixture
def model(tiny_directory: Path) -> Model:
    return load_model(tiny_directory)


def _size(model: Model, batch_size: int, device: str = "cuda:0") -> int:
    return network_request(model, ("logits",), batch_size=batch_size, device=device).batch_size


@pytest.mark.parametrize(("most", "batch"), [(100, 96), (20, 16), (8, 8), (5, 5), (1, 1), (0, 1)])
def test_batches_on_a_gpu_are_as_large_as_their_tensors_may_be(
    model: Model, monkeypatch: pytest.MonkeyPatch, most: int, batch: int
) -> None:
    monkeypatch.setattr(tensor_reach, "MOST_VALUES", _VALUES * (most + 1) - 1)
    assert _size(model, 256) == batch
    assert _size(model, 256, "cpu") == 256
    assert _size(model, max(most, 1)) == max(most, 1)


def test_vgg_at_448_takes_no_256_images(tmp_path: Path) -> None:
    spec = VggSpec("wide", ((64,), (8,), (8,), (8,), (8, 8)), fc_width=8, scale=(2, 2))
    export_vgg(spec, "random:0", tmp_path / "wide")
    model = load_model(tmp_path / "wide")
    request = network_request(model, tuple(model.manifest.taps), device="cuda:0")
    assert request.batch_size == (2**31 - 1) // (64 * 448 * 448) // 8 * 8 == 160


def test_the_network_is_read_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _size(model, 256) == 256
    monkeypatch.setattr(graph, "open_graph", None)
    assert _size(model, 128) == 128


def test_whoever_asked_for_more_is_told(model: Model, pretended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_reach, "MOST_VALUES", 8 * _VALUES)
    for batch_size, told in ((None, 0), (8, 0), (9, 1)):
        said: list[str] = []
        asked = Execution(device="cuda:0", precision="fp32", batch_size=batch_size)
        open_network(model, ("logits",), asked, report=said.append)
        assert sum("Batches are limited to 8 images" in sentence for sentence in said) == told
    assert {request.batch_size for request in pretended.compiled} == {8}
