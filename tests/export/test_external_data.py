"""Networks whose tensors lie in a file beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import ModelError
from pc_engine.export import external_data
from pc_engine.export.external_data import embed_external_data
from pc_engine.graph.prepare import parse_graph

WEIGHTS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int64)}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network whose two tensors lie one behind the other in the file ``net.onnx.data``."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["y"]), helper.make_node("Identity", ["b"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z")],
        [numpy_helper.from_array(values, name) for name, values in WEIGHTS.items()],
    )
    path = tmp_path / "given" / "net.onnx"
    path.parent.mkdir()
    model = helper.make_model(graph)
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    return path


def embedded(path: Path) -> onnx.ModelProto:
    model = parse_graph(path)
    embed_external_data(model, path)
    return model


def place(path: Path, **changed: str | None) -> None:
    """Change where the first tensor of the network at ``path`` says that it lies; None leaves an entry out."""
    model = parse_graph(path)
    tensor = model.graph.initializer[0]
    entries = {**{entry.key: entry.value for entry in tensor.external_data}, **changed}
    tensor.ClearField("external_data")
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_tensors_are_taken_in(network: Path) -> None:
    model = embedded(network)
    assert {tensor.name: tensor.data_location for tensor in model.graph.initializer} == {"a": 0, "b": 0}
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHTS[tensor.name])
    alone = network.parent.parent / "alone.onnx"
    alone.write_bytes(model.SerializeToString())
    assert embedded(alone) == model


def test_without_a_length_a_tensor_ends_with_its_file(network: Path) -> None:
    data = WEIGHTS["a"].tobytes()
    (network.parent / "own").write_bytes(b"before" + data)
    place(network, location="own", offset="6", length=None)
    assert embedded(network).graph.initializer[0].raw_data == data


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "sub/data", "sub\\data", "C:data", "C:\\data", "..", ".", "", "\\\\host\\x"],
)
def test_other_folders_are_not_read(network: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place(network, location=location)
    model = parse_graph(network)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ModelError, match=r"keeps the tensor 'a' in the file '.*', which is not in its own folder"):
        embed_external_data(model, network)


def symbolic(data: Path, secret: Path) -> None:
    data.symlink_to(secret)


def hard(data: Path, secret: Path) -> None:
    data.hardlink_to(secret)


def folder(data: Path, _: Path) -> None:
    data.mkdir()


def fifo(data: Path, _: Path) -> None:
    os.mkfifo(data)


@pytest.mark.parametrize("make", [symbolic, hard, folder, fifo])
def test_links_and_what_is_no_file_are_not_read(network: Path, make: Callable[[Path, Path], None]) -> None:
    data = network.parent / "net.onnx.data"
    secret = data.rename(network.parent.parent / "secret")
    make(data, secret)
    with pytest.raises(ModelError, match=r"data, in which net.onnx keeps the tensor 'a', is a link or not a file"):
        embedded(network)


def test_a_file_that_is_exchanged_while_it_is_opened_is_not_read(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = parse_graph(network), Path.open

    def exchange(path: Path, mode: str) -> object:
        path.unlink()
        path.symlink_to("/etc/passwd")
        return real(path, mode)

    monkeypatch.setattr(Path, "open", exchange)
    with pytest.raises(ModelError, match=r"changed while it was opened"):
        embed_external_data(model, network)


def test_a_file_that_is_absent_is_named(network: Path) -> None:
    (network.parent / "net.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"net.onnx.data, .* cannot be read \(No such file.*: put it beside the net"):
        embedded(network)


def test_a_file_that_is_cut_short_is_said(network: Path) -> None:
    data = network.parent / "net.onnx.data"
    os.truncate(data, data.stat().st_size - 1)
    with pytest.raises(
        ModelError, match=r"net.onnx.data ends before the tensor 'b' of net.onnx does: export both again"
    ):
        embedded(network)


@pytest.mark.parametrize("number", ["-1", "1.5", "", "x", "0x10", "٣", "9" * 20])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_places_that_are_no_numbers_are_damage(network: Path, key: str, number: str) -> None:
    place(network, **{key: number})
    with pytest.raises(ModelError, match=r"net.onnx is damaged: its tensor 'a' has '.*' as its place"):
        embedded(network)


@pytest.mark.parametrize("key", ["offset", "length"])
def test_places_behind_the_end(network: Path, key: str) -> None:
    place(network, **{key: str(2**62)})
    with pytest.raises(ModelError, match=r"ends before the tensor 'a'"):
        embedded(network)


def test_tensors_that_lie_at_the_same_place_cannot_fill_memory(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "LARGEST_FILE", network.stat().st_size + 60)
    with pytest.raises(ModelError, match=r"larger than 2 GiB"):
        embedded(network)
