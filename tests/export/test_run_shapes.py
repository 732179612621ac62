"""Shapes that are known once a network has run."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export import Cooccurrence, Readout, import_classifier
from pc_engine.export.quantise import quantise_network
from pc_engine.export.run_shapes import known_shapes
from pc_engine.graph import shapes as graph_shapes
from pc_engine.manifest import NetworkInput
from pc_engine.selection.candidates import probe_images

SIZE = 8


def network():
    """As Keras' exporter writes them: maps are padded by widths that nodes compute."""
    rng = np.random.default_rng(1)
    arrays = {
        "filters": rng.standard_normal((5, 3, 3, 3)).astype(np.float32),
        "more": rng.standard_normal((6, 5, 1, 1)).astype(np.float32),
        "head": rng.standard_normal((6, 4)).astype(np.float32),
        "eighth": np.array(SIZE),
        "none": np.zeros(2, np.int64),
        "first": np.array([0]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["planes"], ["shape"], start=2),
        helper.make_node("Div", ["shape", "eighth"], ["margins"]),
        helper.make_node("Concat", ["none", "margins", "none", "margins"], ["pads"], axis=0),
        helper.make_node("Pad", ["planes", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "filters"], ["sums"], strides=[2, 2]),
        helper.make_node("Relu", ["sums"], ["inner"]),
        helper.make_node("Conv", ["inner", "more"], ["more_sums"]),
        helper.make_node("Relu", ["more_sums"], ["last"]),
        helper.make_node("ReduceMean", ["last"], ["row"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["row", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "padded",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_inference_leaves_open_a_run_shows():
    model = network()
    assert not graph_shapes.is_whole(graph_shapes.infer(model)["last"])
    known = known_shapes(model, NetworkInput("image", SIZE, SIZE))
    assert known["last"] == graph_shapes.Value(TensorProto.FLOAT, ("N", 6, 4, 4))
    assert known["pads"] == graph_shapes.Value(TensorProto.INT64, (8,))
    assert known["planes"].shape == ("N", 3, SIZE, SIZE)
    assert not model.graph.value_info


@pytest.mark.parametrize("change", ["another size", "unknown operator"])
def test_of_a_network_that_cannot_run_the_inferred_ones_are_returned(change):
    model = network()
    if change == "unknown operator":
        model.graph.node[-1].op_type = "Nothing"
    width = 2 * SIZE if change == "another size" else SIZE
    assert known_shapes(model, NetworkInput("image", SIZE, width)) == graph_shapes.infer(model)


def test_an_export_and_its_quantised_network_give_evidence(tmp_path):
    onnx.save_model(network(), tmp_path / "given.onnx")
    manifest = import_classifier(
        tmp_path / "given.onnx",
        tmp_path / "model",
        name="padded",
        pixels=NetworkInput("", 0, 0, layout=""),
        readout=Readout(taps={"conv_last": "last", "logits": "scores"}, count_features=("conv_last",)),
    )
    assert manifest.taps["evidence"].shape == (6,)
    network_file = tmp_path / "model/model.onnx"
    quantised = quantise_network(network_file, manifest, probe_images(SIZE, SIZE, 12), tmp_path / "out.onnx", threads=1)
    assert quantised.taps["evidence"].shape == (6,)


def test_cooccurrence_is_of_maps_whose_shape_is_known_by_running(tmp_path):
    onnx.save_model(network(), tmp_path / "given.onnx")
    manifest = import_classifier(
        tmp_path / "given.onnx",
        tmp_path / "m",
        name="padded",
        pixels=NetworkInput("image", SIZE, SIZE, layout="NHWC", dtype="uint8"),
        readout=Readout(taps={"inner": "inner"}, cooccurrences=[Cooccurrence("inner", 1)]),
    )
    assert manifest.taps["inner_cooccurrence_1"].shape == (5 * 6 // 2,)
