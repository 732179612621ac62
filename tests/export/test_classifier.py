"""Existing ONNX classifiers as models."""

import csv
import json
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pc_engine.errors import ManifestError, ModelError, PcEngineError, UsageError
from pc_engine.export import Cooccurrence, Description, Readout, import_classifier
from pc_engine.graph.prepare import open_graph
from pc_engine.manifest import NetworkInput
from pc_engine.manifest_file import read_manifest
from pc_engine.modes.c2p import c2p_taps

DATA = Path(os.environ.get("PC_ENGINE_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
MOBILENET = DATA.parent / "models/mobilenet_v2/model.onnx"
SIZE = 8
TAPS = {"conv_last": "relu_2", "conv_prev": "first_relu", "logits": "scores"}


def save_cnn(path, *, layout="NCHW", dtype=TensorProto.FLOAT, batch=1, reshape=(1, -1), maps=5):
    """A network as exporters write them: batch fixed at 1, a hard-wired Reshape, nodes with names, one output."""
    rng = np.random.default_rng(4)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (maps, 3, 3, 3)), ("w2", (6, maps, 3, 3)), ("fc", (4, 6)))
    ]
    nodes = [
        helper.make_node("Transpose", ["data"], ["chw"], perm=[0, 3, 1, 2])
        if layout == "NHWC"
        else helper.make_node("Identity", ["data"], ["chw"]),
        helper.make_node("Cast", ["chw"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "w1"], ["conv_1"], pads=[1] * 4, name="first_conv"),
        helper.make_node("Relu", ["conv_1"], ["relu_1"], name="first_relu"),
        helper.make_node("Conv", ["relu_1", "w2"], ["conv_2"], pads=[1] * 4, strides=[2, 2], name="second_conv"),
        helper.make_node("Relu", ["conv_2"], ["relu_2"], name="second_relu"),
        helper.make_node("GlobalAveragePool", ["relu_2"], ["mean"]),
        helper.make_node("Reshape", ["mean", "flat"], ["mean_flat"]),
        helper.make_node("Gemm", ["mean_flat", "fc"], ["scores"], transB=1, name="head"),
        helper.make_node("Softmax", ["scores"], ["probabilities"]),
    ]
    weights.append(numpy_helper.from_array(np.array(reshape), "flat"))
    dims = [batch, SIZE, SIZE, 3] if layout == "NHWC" else [batch, 3, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("data", dtype, dims)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 4])],
        weights,
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return path


def headless(path):
    """Put something into the head of a network that there is no way back through."""
    model = onnx.load(path)
    at = next(k for k, node in enumerate(model.graph.node) if node.op_type == "Gemm")
    model.graph.node[at].input[0] = "bent"
    model.graph.node.insert(at, helper.make_node("Softsign", ["mean_flat"], ["bent"]))
    onnx.save_model(model, path)
    return path


def pixels(**changes):
    declared = {"layout": "NCHW", "dtype": "float32", "mean": (9.0, 8.0, 7.0), "std": (60.0, 50.0, 40.0)}
    return NetworkInput("data", SIZE, SIZE, **{**declared, **changes})


def convert(path, out, **changes):
    given = {"name": "cnn", "taps": TAPS, "pixels": pixels(), "count_features": ("conv_prev",), **changes}
    readout, description = (
        kind(**{each.name: given.pop(each.name) for each in fields(kind) if each.name in given})
        for kind in (Readout, Description)
    )
    return import_classifier(path, out, readout=readout, description=description, **given)


def run(path, images, outputs=None):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(outputs, {session.get_inputs()[0].name: images})


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_canonical_network_computes_what_the_given_one_does(tmp_path, layout, channels):
    path = save_cnn(tmp_path / "given.onnx", layout=layout)
    out = tmp_path / "model"
    names = ("a", "b", "c", "d")
    convert(path, out, pixels=pixels(layout=layout, channels=channels), classes=names, licence="MIT")
    manifest = read_manifest(out)
    assert {name: tap.shape for name, tap in manifest.taps.items()} == {
        "conv_last": (6, 4, 4),
        "conv_prev": (5, 8, 8),
        "logits": (4,),
        "evidence": (6,),
    }
    assert (manifest.input.tensor, manifest.input.layout, manifest.input.dtype) == ("image", "NHWC", "uint8")
    assert (manifest.classes, manifest.licence, manifest.source) == (names, "MIT", "given.onnx")
    assert manifest.count_features == ("conv_prev",)

    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    given = onnx.load(path)
    for name in ("relu_1", "relu_2", "scores"):
        given.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save_model(given, tmp_path / "with_outputs.onnx")
    prepared = (images - np.float32((9, 8, 7))) / np.float32((60, 50, 40))
    prepared = prepared[..., ::-1] if channels == "BGR" else prepared
    prepared = prepared if layout == "NHWC" else prepared.transpose(0, 3, 1, 2)
    found = dict(zip(manifest.taps, run(out / "model.onnx", images, list(manifest.taps)), strict=True))
    rows = numpy_helper.to_array(next(t for t in given.graph.initializer if t.name == "fc"))
    np.testing.assert_array_equal(found["evidence"], rows[found["logits"].argmax(axis=1)])
    for k, image in enumerate(prepared):  # the given network takes one image at a time
        tensors = run(tmp_path / "with_outputs.onnx", np.ascontiguousarray(image[None]), ["relu_2", "relu_1", "scores"])
        for name, wanted in zip(TAPS, tensors, strict=True):
            np.testing.assert_allclose(found[name][k], wanted[0], rtol=1e-4, atol=1e-5, err_msg=name)
    open_graph(out / "model.onnx", manifest, ["conv_last"])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_taps_that_are_not_named_are_told_by_the_head(tmp_path, layout):
    path, said = save_cnn(tmp_path / "given.onnx", layout=layout), []
    both = {"pixels": pixels(layout=layout), "count_features": ("conv_prev", "conv_last")}
    found = convert(path, tmp_path / "found", taps={}, report=said.append, **both)
    named = convert(path, tmp_path / "named", **both)
    assert said[-1] == "Taps that were not named: --tap conv_last=relu_2, --tap conv_prev=relu_1."
    assert found.taps == named.taps
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    for one, other in zip(
        *(run(tmp_path / name / "model.onnx", images, list(named.taps)) for name in ("found", "named")), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_what_is_named_stays_and_the_rest_is_told_by_the_head(tmp_path):
    path = save_cnn(tmp_path / "given.onnx")
    manifest = convert(path, tmp_path / "m", taps={"conv_prev": "conv_2", "pooled": "mean_flat"})
    assert {tap: manifest.taps[tap].shape for tap in ("conv_prev", "conv_last", "pooled", "logits")} == {
        "conv_prev": (6, 4, 4),
        "conv_last": (6, 4, 4),
        "pooled": (6,),
        "logits": (4,),
    }


def test_taps_that_are_not_named_are_told_by_their_names_in_the_file(tmp_path):
    """And not by those that the taps named have given them, nor by that of maps turned for the evidence."""
    path, said = save_cnn(tmp_path / "given.onnx"), []
    convert(path, tmp_path / "a", taps={"maps": "relu_2", "conv_prev": "relu_1"}, report=said.append)
    assert said[-1] == "Taps that were not named: --tap conv_last=relu_2."
    model = onnx.load(path)
    at = next(k for k, node in enumerate(model.graph.node) if node.op_type == "GlobalAveragePool")
    model.graph.node[at].CopyFrom(helper.make_node("ReduceMean", ["last"], ["mean"], axes=[1, 2]))
    model.graph.node.insert(at, helper.make_node("Transpose", ["relu_2"], ["turned"], perm=[0, 2, 3, 1]))
    model.graph.node.insert(at + 1, helper.make_node("Sigmoid", ["turned"], ["last"]))
    onnx.save_model(model, path)
    found = convert(path, tmp_path / "b", taps={"maps": "relu_1"}, report=said.append)
    assert said[-1] == "Taps that were not named: --tap conv_last=last, --tap conv_prev=relu_1."
    named = convert(path, tmp_path / "c", taps={"conv_last": "last", "conv_prev": "relu_1"})
    assert named.taps == {tap: shape for tap, shape in found.taps.items() if tap != "maps"}


@pytest.mark.parametrize(
    ("named", "tap", "naming"),
    [
        ({}, "conv_prev", ""),  # which they are already
        ({"conv_last": "relu_2"}, "middle", "--tap middle=relu_1 "),
        ({"conv_last": "relu_2", "middle": "mean_flat"}, "middle_1", "--tap middle_1=relu_1 "),
    ],
)
def test_without_a_count_feature_the_counter_reads_finer_maps_as_well(tmp_path, named, tap, naming):
    path, said = save_cnn(tmp_path / "given.onnx", maps=64), []
    found = convert(path, tmp_path / "found", taps=named, count_features=None, report=said.append)
    assert said[-1].endswith(f": --count-feature conv_last {naming}--cooccurrence {tap}@0 --cooccurrence {tap}@2.")
    assert found.count_features == ("conv_last", f"{tap}_cooccurrence_0", f"{tap}_cooccurrence_2")
    assert found.taps[f"{tap}_cooccurrence_2"].shape == (64 * 65 // 2,)


def test_the_heat_is_that_of_the_maps_named_or_of_the_finer_ones_and_those_between(tmp_path):
    path = save_cnn(tmp_path / "given.onnx", maps=64)
    named = {"conv_last": "relu_2", "conv_prev": "conv_2"}
    said = []
    usual = convert(path, tmp_path / "usual", taps=named, count_features=None, report=said.append)
    assert (
        said[-1]
        == "What conv_prev and middle show is pointed at, and clustered by p2c: --heat conv_prev --heat middle."
    )
    assert usual.settings["c2p.heat"] == usual.settings["p2c.heat"] == "conv_prev middle"
    assert c2p_taps(usual) == (*usual.count_features, "conv_prev", "middle")
    own = convert(path, tmp_path / "own", taps=named, count_features=None, heat=("conv_last", "middle"))
    assert own.settings["c2p.heat"] == own.settings["p2c.heat"] == "conv_last middle"
    others = {
        "two": {"taps": {}, "count_features": None},
        "none": {"taps": named},
        "twice": {"taps": {"own": "relu_1"}, "count_features": None},  # which conv_prev are
    }
    for name, changes in others.items():
        plain = convert(path, tmp_path / name, **changes).settings
        assert not {"c2p.heat", "p2c.heat"} & plain.keys()
    for wrong in ("logits", "nosuch"):
        expected = f"The network has no maps called {wrong} for --heat: choose among conv_last, conv_prev"
        with pytest.raises(UsageError, match=expected):
            convert(path, tmp_path / "wrong", taps=named, heat=("conv_last", wrong))
    assert not (tmp_path / "wrong").exists()


def test_without_finer_maps_the_counter_reads_the_last_ones(tmp_path):
    path = save_cnn(tmp_path / "given.onnx")  # of five maps
    assert convert(path, tmp_path / "m", count_features=None).count_features == ("conv_last",)
    own = convert(path, tmp_path / "own", count_features=None, cooccurrences=[Cooccurrence("conv_prev", 1)])
    assert own.count_features == ("conv_prev_cooccurrence_1",)


def test_a_network_of_one_convolution_has_no_maps_before(tmp_path):
    path = save_cnn(tmp_path / "given.onnx")
    model = onnx.load(path)
    model.graph.node[6].input[0] = "relu_1"
    next(tensor for tensor in model.graph.initializer if tensor.name == "fc").CopyFrom(
        numpy_helper.from_array(np.ones((4, 5), np.float32), "fc")
    )
    onnx.save_model(model, path)
    manifest = convert(path, tmp_path / "m", taps={}, count_features=("conv_last",))
    assert set(manifest.taps) == {"conv_last", "logits", "evidence"}


def quantise_probabilities(model):
    """Put behind them what ONNX Runtime's quantiser does."""
    scale = {"scale": np.float32(1 / 255), "zero": np.uint8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in scale.items())
    model.graph.node[-1].output[0] = "exact"
    model.graph.node.append(helper.make_node("QuantizeLinear", ["exact", *scale], ["steps"]))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["steps", *scale], ["probabilities"]))


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid"])
def test_probabilities_that_are_named_as_logits_are_traced_to_these(tmp_path, operator, quantised):
    """The modes take the softmax themselves: twice would make all classes alike."""
    path, said = save_cnn(tmp_path / "given.onnx"), []
    model = onnx.load(path)
    model.graph.node[-1].op_type = operator
    if quantised:
        quantise_probabilities(model)
    onnx.save_model(model, path)
    convert(path, tmp_path / "m", taps={**TAPS, "logits": "probabilities"}, report=said.append)
    convert(path, tmp_path / "plain")
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    one, other = (run(tmp_path / name / "model.onnx", images, ["logits"])[0] for name in ("m", "plain"))
    np.testing.assert_array_equal(one, other)
    assert said == ["The tap 'logits' names probabilities: what they are computed from is used instead ('scores')."]


def test_functions_are_written_out(tmp_path):
    """OpenVINO knows none but those of ONNX."""
    path = save_cnn(tmp_path / "given.onnx")
    model = onnx.load(path)
    at = next(k for k, node in enumerate(model.graph.node) if node.output[0] == "relu_2")
    model.graph.node[at].op_type, model.graph.node[at].domain = "Activation", "own"
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    opsets = [helper.make_opsetid("", 13)]
    model.functions.append(helper.make_function("own", "Activation", ["x"], ["y"], relu, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.ir_version = 8
    onnx.save_model(model, path)
    convert(path, tmp_path / "m")
    convert(save_cnn(path), tmp_path / "plain")
    written, plain = (onnx.load(tmp_path / name / "model.onnx") for name in ("m", "plain"))
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in plain.graph.node]
    assert not written.functions


def test_logits_of_one_cell_are_one_value_a_class(tmp_path):
    """As those of SqueezeNet, whose classifier is a convolution and a mean over its maps."""
    manifest = convert(save_cnn(tmp_path / "given.onnx"), tmp_path / "m", taps={**TAPS, "logits": "mean"})
    assert manifest.taps["logits"].shape == (6,)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    maps, logits = run(tmp_path / "m/model.onnx", images, ["conv_last", "logits"])
    np.testing.assert_allclose(logits, maps.mean(axis=(2, 3)), rtol=1e-5)


def test_a_network_that_shows_all_images_of_a_batch_the_first_one_is_refused(tmp_path):
    """As upsampling does to a size that an exporter wrote down whole, for a batch of one."""
    path = save_cnn(tmp_path / "given.onnx")
    model = onnx.load(path)
    first = [
        helper.make_node("Gather", ["relu_2", "zero"], ["first"], axis=0),
        helper.make_node("Add", ["relu_2", "first"], ["sums"]),
    ]
    at = next(k for k, node in enumerate(model.graph.node) if node.op_type == "GlobalAveragePool")
    model.graph.node[at].input[0] = "sums"
    for k, node in enumerate(first):
        model.graph.node.insert(at + k, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    onnx.save_model(model, path)
    with pytest.raises(ModelError, match="The tap 'logits' of 'cnn' depends on the other images of a batch"):
        convert(path, tmp_path / "m")


@pytest.mark.parametrize("changes", [{}, {"mean": (0, 0, 0)}, {"mean": (0, 0, 0), "std": (1, 1, 1)}])
def test_pixels_that_go_in_as_they_are_are_said(tmp_path, changes):
    said = []
    convert(save_cnn(tmp_path / "given.onnx"), tmp_path / "m", pixels=pixels(**changes), report=said.append)
    assert any(sentence.startswith("Pixels go in as 0 to 255, ") for sentence in said) == ("std" in changes)


def test_uint8_network_and_unnamed_input(tmp_path):
    said = []
    path = save_cnn(tmp_path / "bytes.onnx", layout="NHWC", dtype=TensorProto.UINT8, batch="batch", reshape=(-1, 6))
    manifest = convert(path, tmp_path / "m", pixels=NetworkInput("", SIZE, SIZE), report=said.append)
    assert not any("Pixels" in sentence for sentence in said)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    assert manifest.input == NetworkInput("image", SIZE, SIZE)
    assert run(tmp_path / "m/model.onnx", images, ["logits"])[0].shape == (2, 4)


class TestRefusals:
    @pytest.fixture
    def given(self, tmp_path):
        return save_cnn(tmp_path / "given.onnx")

    def test_unknown_tensor(self, tmp_path, given):
        with pytest.raises(UsageError, match=r"no tensor and no node 'relu2' for the tap 'conv_last'.*'relu_2'"):
            convert(given, tmp_path / "m", taps={**TAPS, "conv_last": "relu2"})
        with pytest.raises(UsageError, match=r"'zzz' for the tap 'logits'; the last vectors of the network are prob"):
            convert(given, tmp_path / "m", taps={**TAPS, "logits": "zzz"})
        assert not (tmp_path / "m").exists()

    def test_missing_role(self, tmp_path, given):
        model = onnx.load(given)
        model.graph.output.append(helper.make_tensor_value_info("mean_flat", TensorProto.FLOAT, [1, 6]))
        onnx.save_model(model, given)
        with pytest.raises(UsageError) as caught:
            convert(given, tmp_path / "m", taps={"conv_last": "relu_2"}, count_features=("conv_last",))
        assert str(caught.value) == (
            "No tensor was named for the tap 'logits': add --tap logits=NAME; the last vectors of the network are "
            "probabilities (4), scores (4), mean_flat (6)."
        )
        said = []
        with pytest.raises(UsageError) as caught:
            convert(headless(given), tmp_path / "m", taps={"logits": "probabilities"}, report=said.append)
        assert str(caught.value) == (
            "No tensor was named for the tap 'conv_last': add --tap conv_last=NAME; the last feature maps of the "
            "network are relu_2 (6 x 4 x 4), conv_2 (6 x 4 x 4), relu_1 (5 x 8 x 8), conv_1 (5 x 8 x 8)."
        )
        assert said[-1].endswith("the way from the logits back to the feature maps leads through 'bent' (Softsign).")
        with pytest.raises(UsageError, match="No tensor was named for the tap 'conv_last': add --tap"):
            convert(given, tmp_path / "m", taps={"logits": "probabilities", "evidence": "mean_flat"})

    @pytest.mark.parametrize("tap", ["my maps", "maps\n", ""])
    def test_a_tap_of_several_words(self, tmp_path, given, tap):
        with pytest.raises(UsageError, match=f"The tap name '{tap}' is not one word"):
            convert(given, tmp_path / "m", taps={tap: "relu_1"}, count_features=None)

    def test_what_has_the_shape_of_maps_alone_is_not_named(self, tmp_path, given):
        model = onnx.load(headless(given))
        at = next(k for k, node in enumerate(model.graph.node) if node.op_type == "GlobalAveragePool")
        mean = helper.make_node("ReduceMean", ["attention"], ["mean"], axes=[2, 3])
        model.graph.node[at].CopyFrom(mean)
        model.graph.node.insert(at, helper.make_node("MatMul", ["relu_2", "relu_2"], ["attention"]))
        onnx.save_model(model, given)
        with pytest.raises(UsageError, match=r"the network are relu_2 .*, conv_1 \(5 x 8 x 8\)\.$"):
            convert(given, tmp_path / "m", taps={})

    def test_weights_that_nodes_make_play_no_part(self, tmp_path, given):
        model = onnx.load(headless(given))
        model.graph.node.insert(4, helper.make_node("Identity", ["w2"], ["w2_as_computed"]))
        model.graph.node[5].input[1] = "w2_as_computed"
        onnx.save_model(model, given)
        with pytest.raises(UsageError, match=r"are relu_2 .*, conv_2 .*, relu_1 .*, conv_1 [^,]*$"):
            convert(given, tmp_path / "m", taps={})

    def test_missing_role_of_a_network_whose_shapes_are_not_known(self, tmp_path, given):
        model = onnx.load(given)
        model.graph.node[2].domain = "unknown"
        model.opset_import.append(helper.make_opsetid("unknown", 1))
        onnx.save_model(model, given)
        with pytest.raises(UsageError, match="the last tensors of the network are logits, scores, mean_flat, mean"):
            convert(given, tmp_path / "m", taps={"logits": "probabilities"})

    def test_missing_role_of_a_network_whose_shapes_are_known_in_part(self, tmp_path, given):
        model = onnx.load(given)
        model.graph.node[6].domain = "unknown"
        model.opset_import.append(helper.make_opsetid("unknown", 1))
        onnx.save_model(model, given)
        expected = (
            r"the last feature maps of known shape of the network are relu_2 \(6 x 4 x 4\), .* and the last tensors of "
            "the network are logits, scores, mean_flat, mean"
        )
        with pytest.raises(UsageError, match=expected):
            convert(given, tmp_path / "m", taps={"logits": "probabilities"})

    def test_count_feature_that_is_no_tap(self, tmp_path, given):
        with pytest.raises(UsageError, match=r"feature 'fc7' is not a tap: add --tap fc7=NAME; the last feat"):
            convert(given, tmp_path / "m", count_features=("fc7",))

    def test_count_feature_that_is_named_twice(self, tmp_path, given):
        with pytest.raises(UsageError, match=r"^The counter's features name 'conv_last' twice: name it once\.$"):
            convert(given, tmp_path / "m", count_features=("conv_last", "conv_prev", "conv_last"))

    @pytest.mark.parametrize("heat", [("conv_prev", "conv_last", "conv_prev"), ("conv_prev conv_prev",)])
    def test_heat_that_is_named_twice(self, tmp_path, given, heat):
        with pytest.raises(UsageError, match=r"^--heat names 'conv_prev' twice: name it once\.$"):
            convert(given, tmp_path / "m", heat=heat)

    def test_class_names_that_do_not_fit(self, tmp_path, given):
        with pytest.raises(UsageError, match=r"are 3 class names, .* has 4 logits: .* and --background-class 0"):
            convert(given, tmp_path / "m", classes=("a", "b", "c"))

    def test_roles_of_the_wrong_rank(self, tmp_path, given):
        with pytest.raises(ManifestError, match=r"'conv_last' has shape \(4,\), expected channels, height, width"):
            convert(given, tmp_path / "m", taps={**TAPS, "conv_last": "scores"})
        with pytest.raises(ManifestError, match=r"'logits' has shape \(6, 4, 4\), expected one value per class"):
            convert(given, tmp_path / "m", taps={**TAPS, "logits": "conv_2"})

    def test_wrong_size_and_layout(self, tmp_path, given):
        with pytest.raises(ModelError, match="takes images of 8 x 8 pixels"):
            convert(given, tmp_path / "m", pixels=NetworkInput("data", 16, 16, "NCHW", "float32"))
        with pytest.raises(ModelError, match=r"'data' has 8 channel\(s\) in the layout NHWC, but photos have 3"):
            convert(given, tmp_path / "m", pixels=pixels(layout="NHWC"))

    def test_uint8_in_another_order(self, tmp_path):
        path = save_cnn(tmp_path / "bytes.onnx", dtype=TensorProto.UINT8)
        with pytest.raises(ManifestError, match="takes uint8 NCHW RGB; a uint8 input must be NHWC RGB"):
            convert(path, tmp_path / "m", pixels=pixels(mean=(0, 0, 0), std=(1, 1, 1)))

    def test_batch_that_stays_fixed(self, tmp_path):
        path = save_cnn(tmp_path / "fixed.onnx", reshape=(6,))
        model = onnx.load(path)
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 6]), "flat_again"))
        model.graph.node.insert(8, helper.make_node("Reshape", ["mean_flat", "flat_again"], ["row"]))
        model.graph.node[9].input[0] = "row"
        onnx.save_model(model, path)
        with pytest.raises(ModelError, match=r"batch of two 8x8 images|fixes the batch size at 1"):
            convert(path, tmp_path / "m")

    def test_changed_bytes(self, tmp_path, given):
        """Names that are no text, attributes of no kind, weights of another size: each has its sentence."""
        content, rng = given.read_bytes(), np.random.default_rng(0)
        said = []
        for k in range(120):
            changed = bytearray(content)
            for place in rng.integers(0, len(content), rng.integers(1, 4)):
                changed[place] = rng.integers(0, 256)
            given.write_bytes(changed)
            try:
                convert(given, tmp_path / f"m{k}", report=lambda _: None)
            except PcEngineError as error:
                said.append(str(error))
        assert len(said) > 20
        assert all(len(sentence.splitlines()) == 1 for sentence in said)

    @pytest.mark.parametrize("damage", ["half", "function"])
    def test_damaged(self, tmp_path, given, damage):
        model = onnx.load(given)
        if damage == "half":
            model.graph.initializer[0].data_type = TensorProto.FLOAT16
        else:  # it is made of itself
            nodes = [helper.make_node("F", ["x"], ["y"], domain="own")]
            model.functions.append(
                helper.make_function("own", "F", ["x"], ["y"], nodes, [helper.make_opsetid("own", 1)])
            )
            model.opset_import.append(helper.make_opsetid("own", 1))
            model.graph.node[3].op_type, model.graph.node[3].domain = "F", "own"
        onnx.save_model(model, given)
        with pytest.raises(ModelError, match=r"given\.onnx is damaged"):
            convert(given, tmp_path / "m")

    def test_not_onnx(self, tmp_path):
        (tmp_path / "x.onnx").write_bytes(b"PK\x03\x04")
        with pytest.raises(ModelError, match=r"x\.onnx"):
            convert(tmp_path / "x.onnx", tmp_path / "m")

    def test_weights_outside_its_folder(self, tmp_path, given):
        (tmp_path / "given").mkdir()
        onnx.save(
            onnx.load(given), tmp_path / "net.onnx", save_as_external_data=True, location="data", size_threshold=0
        )
        (tmp_path / "net.onnx").rename(tmp_path / "given" / "net.onnx")
        (tmp_path / "given" / "data").symlink_to(tmp_path / "data")
        with pytest.raises(ModelError, match=r"data, in which net.onnx keeps the tensor 'w1', is a link"):
            convert(tmp_path / "given" / "net.onnx", tmp_path / "m")
        assert not (tmp_path / "m").exists()

    def test_full_directory(self, tmp_path, given):
        with pytest.raises(UsageError, match="not empty"):
            convert(given, tmp_path)


@pytest.mark.data
def test_mobilenet(tmp_path):
    if not MOBILENET.is_file():
        pytest.skip(f"{MOBILENET} is absent")
    names = json.loads((MOBILENET.parents[1] / "imagenet_classes.json").read_text())
    manifest = import_classifier(
        MOBILENET,
        tmp_path / "m",
        name="mobilenet_v2",
        pixels=NetworkInput("image", 224, 224, "NCHW", "float32", "RGB", (128.0,) * 3, (128.0,) * 3),
        readout=Readout(
            taps={"conv_prev": "block_16_expand", "conv_last": "conv_last", "pooled": "pooled", "logits": "logits"},
            count_features=("pooled",),
        ),
        description=Description(classes=("background", *(name for _, _, name in names)), licence="Apache-2.0"),
    )
    assert manifest.taps["conv_last"].shape == (1280, 7, 7)
    assert manifest.n_classes == 1001
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    wanted = run(
        MOBILENET, (images.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 128, ["block_16_expand", "logits"]
    )
    for found, value in zip(run(tmp_path / "m/model.onnx", images, ["conv_prev", "logits"]), wanted, strict=True):
        assert np.linalg.norm(found - value) < 1e-4 * np.linalg.norm(value)

    photos = DATA / "imagenet1k_sample"
    with (photos / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::50]
    images = [Image.open(photos / row["file"]).convert("RGB").resize((224, 224)) for row in rows]
    best = run(tmp_path / "m/model.onnx", np.stack([np.asarray(image) for image in images]), ["logits"])[0].argmax(
        axis=1
    )
    right = [manifest.class_name(k) == row["name"] for k, row in zip(best, rows, strict=True)]
    assert np.mean(right) >= 0.6  # 0.865 on all thousand; these are twenty
