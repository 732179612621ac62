"""Which input of a classifier is the image, and what its declaration says of that."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import ManifestError, ModelError
from pc_engine.export import Readout, import_classifier
from pc_engine.export.classifier_input import complete_input
from pc_engine.manifest import NetworkInput

OPEN = NetworkInput("", 0, 0, layout="")
TENSORS = {"conv_last": "maps", "logits": "scores"}


def network(dims, dtype=TensorProto.FLOAT, inputs=(), reads=(), stored=(), ir_version=8):
    """A classifier of 4 x 4 blocks of pixels; ``reads`` are inputs that its scores are the sums with."""
    channels_last = len(dims) == 4 and dims[3] == 3
    rng = np.random.default_rng(1)
    arrays = {
        "filters": rng.standard_normal((5, 3, 4, 4)).astype(np.float32),
        "head": rng.standard_normal((5, 4)).astype(np.float32),
        **dict(stored),
    }
    nodes = [
        helper.make_node("Cast", ["data"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2] if channels_last else [0, 1, 2, 3]),
        helper.make_node("Conv", ["planes", "filters"], ["sums"], strides=[4, 4]),
        helper.make_node("Relu", ["sums"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "head"], ["product" if reads else "scores"]),
    ]
    if reads:
        nodes.append(helper.make_node("Sum", ["product", *reads], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "given",
        [*inputs, helper.make_tensor_value_info("data", dtype, dims)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 4])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir_version)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ([1, 3, 192, 256], ("NCHW", 192, 256)),
        (["N", 3, 256, 192], ("NCHW", 256, 192)),
        ([1, 192, 256, 3], ("NHWC", 192, 256)),
        (["unk__1", 64, 32, 3], ("NHWC", 64, 32)),
        (["N", 3, "H", "W"], ("NCHW", 224, 224)),
        (["N", 3, 160, "W"], ("NCHW", 160, 224)),
        ([1, 3, 3, 3], ("NCHW", 3, 3)),
        ([-1, 3, -1, -1], ("NCHW", 224, 224)),
    ],
)
def test_what_is_left_open_is_read_from_the_network(dims, expected):
    found = complete_input(network(dims), TENSORS, OPEN)
    assert (found.tensor, found.dtype) == ("data", "float32")
    assert (found.layout, found.height, found.width) == expected


@pytest.mark.parametrize(
    ("dims", "layout", "its"),
    [
        ([1, 3, 32, 48], "", "32 x 48"),
        ([1, 32, 48, 3], "NHWC", "32 x 48"),
        (["N", 3, 32, "W"], "", "32 x any"),
    ],
)
def test_another_size_than_the_network_is_made_for_is_refused(dims, layout, its):
    said = NetworkInput("", 64, 48, layout=layout)
    with pytest.raises(ModelError, match=rf"images of {its} pixels .* not of 64 x 48: omit --size"):
        complete_input(network(dims), TENSORS, said)
    assert complete_input(network(dims), TENSORS, NetworkInput("", 32, 48, layout=layout)).height == 32


def test_other_channels_than_those_of_photos_are_refused():
    with pytest.raises(ModelError, match=r"'data' has 1 channel\(s\) in the layout NCHW, but photos have 3: choose"):
        complete_input(network([1, 1, 28, 28]), TENSORS, OPEN)


def test_what_is_said_is_kept():
    said = NetworkInput("", 64, 96, layout="NHWC", channels="BGR", mean=(1, 2, 3), std=(4, 5, 6))
    found = complete_input(network(["N", "a", "b", "c"]), TENSORS, said)
    assert found == NetworkInput("data", 64, 96, "NHWC", "float32", "BGR", (1, 2, 3), (4, 5, 6))


def test_bytes_lie_with_their_channels_last():
    found = complete_input(network(["N", "a", "b", "c"], TensorProto.UINT8), TENSORS, OPEN)
    assert (found.layout, found.dtype) == ("NHWC", "uint8")


def _export(model, tmp_path, taps=TENSORS, pixels=OPEN):
    path = tmp_path / "given.onnx"
    onnx.save_model(model, path)
    readout = Readout(taps, count_features=("conv_last",))
    return import_classifier(path, tmp_path / "model", name="m", pixels=pixels, readout=readout)


def test_an_input_that_no_tap_depends_on_plays_no_part(tmp_path):
    others = [
        helper.make_tensor_value_info("training", TensorProto.BOOL, []),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3, 12, 8]),
    ]
    manifest = _export(network([1, 3, 12, 8], inputs=others), tmp_path)
    assert manifest.input == NetworkInput("image", 12, 8)
    graph = onnx.load(tmp_path / "model/model.onnx").graph
    assert [value.name for value in graph.input] == ["image"]


def test_sizes_that_are_written_as_minus_one_are_open(tmp_path):
    manifest = _export(network([-1, 3, -1, -1]), tmp_path, pixels=NetworkInput("", 12, 8, layout=""))
    assert manifest.taps["conv_last"].shape == (5, 3, 2)


def test_an_input_with_a_value_in_the_file_has_that_value(tmp_path):
    """Files of IR version 3 list all weights among the inputs, before or after the image."""
    bias = np.arange(4, dtype=np.float32)[None] * 100
    listed = [
        helper.make_tensor_value_info("filters", TensorProto.FLOAT, [5, 3, 4, 4]),
        helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("head", TensorProto.FLOAT, [5, 4]),
    ]
    model = network([1, 3, 12, 8], inputs=listed, reads=("bias",), stored={"bias": bias}, ir_version=3)
    onnx.checker.check_model(model)
    _export(model, tmp_path)
    written = onnx.load(tmp_path / "model/model.onnx")
    assert [value.name for value in written.graph.input] == ["image"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    np.testing.assert_array_equal(stored["bias"], bias)


def test_a_second_input_that_decides_the_taps_is_refused(tmp_path):
    bias = helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1, 4])
    model = network([1, 3, 12, 8], inputs=[bias], reads=("bias",))
    with pytest.raises(ModelError, match=r"need a second input, 'bias'; only .*, so store its value in the file"):
        _export(model, tmp_path)
    other = helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, 3, 12, 8])
    model = network([1, 3, 12, 8], inputs=[other], reads=("other",))
    with pytest.raises(ModelError, match=r"need the inputs 'other', 'data': only .*, so store the values of all other"):
        _export(model, tmp_path)
    # Where one is named, the others are judged as ever.
    with pytest.raises(ModelError, match="need a second input, 'other'"):
        _export(model, tmp_path, pixels=NetworkInput("data", 0, 0, layout=""))
    with pytest.raises(ManifestError, match="'nothing' is not one of them"):
        _export(model, tmp_path, pixels=NetworkInput("nothing", 0, 0))


def test_taps_that_no_image_decides_are_refused(tmp_path):
    constant = numpy_helper.from_array(np.ones((1, 4), np.float32))
    model = network([1, 3, 12, 8])
    model.graph.node.append(helper.make_node("Constant", [], ["fixed"], value=constant))
    with pytest.raises(ModelError, match=r"depend on no input of the network: name others with --tap"):
        _export(model, tmp_path, taps={"conv_last": "fixed", "logits": "fixed"})
