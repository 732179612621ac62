"""Gathers that give what they were given."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export import Readout, import_classifier
from pc_engine.manifest import NetworkInput

SIZE, CHANNELS = 8, 5


def network(path, step):
    """As PyTorch's exporter writes a pooling in channels-last memory: value k of image n is number n * ``step`` + k."""
    rng = np.random.default_rng(1)
    arrays = {
        "filters": rng.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32),
        "head": rng.standard_normal((CHANNELS, 4)).astype(np.float32),
        "all": np.array([-1]),
        "zero": np.array(0),
        "one": np.array(1),
        "step": np.array(step),
        "axes": np.array([1, 2, 3]),
        "channels": np.arange(CHANNELS)[None, :, None, None],
        "row_shape": np.array([-1, CHANNELS]),
    }
    nodes = [
        helper.make_node("Conv", ["data", "filters"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "all"], ["flat"]),
        helper.make_node("Shape", ["data"], ["shape"], start=0, end=1),
        helper.make_node("Squeeze", ["shape"], ["images"]),
        helper.make_node("Range", ["zero", "images", "one"], ["numbers"]),
        helper.make_node("Mul", ["numbers", "step"], ["starts"]),
        helper.make_node("Unsqueeze", ["starts", "axes"], ["starts_4d"]),
        helper.make_node("Add", ["starts_4d", "channels"], ["places"]),
        helper.make_node("Gather", ["flat", "places"], ["copied"]),
        helper.make_node("Reshape", ["copied", "row_shape"], ["row"]),
        helper.make_node("MatMul", ["row", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "strided",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def convert(tmp_path, step, said, **taps):
    return import_classifier(
        network(tmp_path / "given.onnx", step),
        tmp_path / "m",
        name="strided",
        pixels=NetworkInput("", 0, 0, layout=""),
        report=said.append,
        readout=Readout(taps=taps, count_features=("conv_last",)),
    )


def test_a_copy_is_gone_back_through_and_left_out(tmp_path):
    manifest = convert(tmp_path, CHANNELS, [])
    assert set(manifest.taps) == {"conv_last", "logits", "evidence"}
    model = onnx.load(tmp_path / "m/model.onnx")
    assert "Range" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("step", [1, CHANNELS - 1])
def test_another_order_is_no_copy(tmp_path, step):
    """Values of one image that are read for another are found out by what is run of the taps in the end."""
    said = []
    with pytest.raises(Exception, match="depends on the other images of a batch"):
        convert(tmp_path, step, said, conv_last="maps")
    assert any(sentence.endswith("leads through 'copied' (Gather).") for sentence in said)
