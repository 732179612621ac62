"""Networks that were written with their channels last."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export import Readout, import_classifier
from pc_engine.export.map_layout import has_channels_last, map_tensors, with_channels_first
from pc_engine.manifest import NetworkInput
from pc_engine.manifest_file import read_manifest


def network(head="mean"):
    """As TensorFlow's are converted: convolutions between Transpose nodes, all else with the channels last."""
    rng = np.random.default_rng(4)
    arrays = {
        "first": rng.standard_normal((5, 3, 3, 3)).astype(np.float32),
        "second": rng.standard_normal((6, 5, 3, 3)).astype(np.float32),
        "bias": rng.standard_normal(6).astype(np.float32),
        "head": rng.standard_normal((6, 4)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Transpose", ["data"], ["data_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["data_first", "first"], ["sums_first"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Transpose", ["sums_first"], ["sums"], perm=[0, 2, 3, 1]),
        helper.make_node("Relu", ["sums"], ["active"]),
        helper.make_node("Transpose", ["active"], ["active_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["active_first", "second"], ["more_first"], pads=[1] * 4),
        helper.make_node("Transpose", ["more_first"], ["more"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["bias", "more"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["last"]),
    ]
    if head == "mean":
        nodes.append(helper.make_node("ReduceMean", ["last"], ["row"], axes=[1, 2], keepdims=0))
    else:
        nodes += [
            helper.make_node("Transpose", ["last"], ["last_first"], perm=[0, 3, 1, 2]),
            helper.make_node("GlobalAveragePool", ["last_first"], ["pool"]),
            helper.make_node("Squeeze", ["pool", "axes"], ["row"]),
        ]
    nodes.append(helper.make_node("MatMul", ["row", "head"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "channels_last",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["unk__1", 8, 12, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["unk__1", 4])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(model, names, images):
    for name in names:
        if name not in {value.name for value in model.graph.output}:
            model.graph.output.add(name=name)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(names), {session.get_inputs()[0].name: images})


def test_layouts_are_told_by_what_made_the_tensors():
    model = network("pool")
    producers = {name: node for node in model.graph.node for name in node.output}
    found = [name for name in producers if has_channels_last(name, producers)]
    assert found == ["sums", "active", "more", "biased", "last"]
    assert not has_channels_last("data", producers)


def test_a_tap_is_the_tensor_of_the_network_that_has_its_channels_first():
    model, said = network("pool"), []
    before = len(model.graph.node)
    taps = {"a": "sums", "b": "active", "c": "biased", "d": "biased", "e": "more_first", "logits": "scores"}
    found = with_channels_first(model, taps, said.append)
    assert found == {
        "a": "sums_first",
        "b": "active_first",
        "c": "biased/channels_first",
        "d": "biased/channels_first",
        "e": "more_first",
        "logits": "scores",
    }
    assert len(model.graph.node) == before + 1
    assert said[0] == "The tap 'a' has its channels last ('sums'): it is read with its channels first."
    assert len(said) == 4


@pytest.mark.parametrize("head", ["mean", "pool"])
def test_an_export_has_maps_with_their_channels_first_and_evidence_for_them(tmp_path, head):
    onnx.save_model(network(head), tmp_path / "given.onnx")
    manifest = import_classifier(
        tmp_path / "given.onnx",
        tmp_path / "model",
        name="channels_last",
        pixels=NetworkInput("", 0, 0, layout=""),
        readout=Readout(
            taps={"conv_prev": "sums", "conv_last": "biased", "logits": "scores"}, count_features=("conv_last",)
        ),
    )
    assert {name: tap.shape for name, tap in read_manifest(tmp_path / "model").taps.items()} == {
        "conv_prev": (5, 4, 6),
        "conv_last": (6, 4, 6),
        "logits": (4,),
        "evidence": (6,),
        "conv_top": (6, 4, 6),
    }
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    given = run(network(head), ["sums", "biased", "scores", "last"], images.astype(np.float32))
    names = ["conv_prev", "conv_last", "logits", "conv_top", "evidence"]
    found = dict(zip(names, run(onnx.load(tmp_path / "model/model.onnx"), names, images), strict=True))
    for name, expected in zip(names, given, strict=False):
        expected = expected.transpose(0, 3, 1, 2) if expected.ndim == 4 else expected
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-3, err_msg=name)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in network().graph.initializer}
    np.testing.assert_array_equal(found["evidence"], stored["head"].T[found["logits"].argmax(axis=1)])
    assert manifest.evidence_maps == "conv_top"


def test_matrices_of_attention_and_tokens_are_no_maps():
    """What is read as maps again is some, and so is what is added to maps with their channels last."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["patches"]),
        helper.make_node("Reshape", ["patches", "by_head"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["turned", "heads"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=3),
        helper.make_node("MatMul", ["heads", "shares"], ["mixed"]),
        helper.make_node("Reshape", ["mixed", "as_maps"], ["maps_again"]),
        helper.make_node("Relu", ["maps_again"], ["read_by_cell"]),
        helper.make_node("GlobalAveragePool", ["maps_again"], ["pooled"]),
        helper.make_node("Transpose", ["patches"], ["patches_last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["patches_last", "v"], ["dense"]),
        helper.make_node("Add", ["dense", "patches_last"], ["sum_last"]),
    ]
    maps = {"patches", "maps_again", "read_by_cell", "pooled", "patches_last", "sum_last"}
    assert map_tensors(helper.make_graph(nodes, "net", [], [])) == maps
