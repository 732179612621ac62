from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import CompileRequest
from pc_engine.backends import BACKENDS
from pc_engine.errors import ModelError
from pc_engine.export import Cooccurrence, export_vgg
from pc_engine.export.quantise import calibration_steps, quantise_network
from pc_engine.graph.prepare import open_graph
from pc_engine.manifest import Manifest, NetworkInput, Tap
from pc_engine.manifest_file import read_manifest, write_manifest
from pc_engine.selection.candidates import probe_images, tap_difference

TAPS = ("conv_prev", "conv_last", "pool5", "fc6", "fc7", "logits")
COOCCURRENCES = (Cooccurrence("conv_last"), Cooccurrence("conv_last", 1))


@pytest.fixture(scope="module")
def small_vgg(tiny, tiny_weights, tmp_path_factory):
    """A model directory of VGG16 in small, and the same network quantised on twelve pictures."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("vgg")
    save_file(tiny_weights, folder / "weights.safetensors")
    manifest = export_vgg(tiny, folder / "weights.safetensors", folder / "model", cooccurrences=COOCCURRENCES)
    out = folder / "model" / "model.int8.onnx"
    done = []
    quantised = quantise_network(
        folder / "model" / "model.onnx", manifest, probe_images(64, 64, 12), out, threads=1, advance=done.append
    )
    assert sum(done) == calibration_steps(12)
    return folder / "model", manifest, quantised


def _request(directory, manifest, quantised, taps=TAPS):
    manifest = Manifest(**{**vars(read_manifest(directory)), "quantised": {"int8": quantised}})
    return CompileRequest(directory / "model.onnx", manifest, taps, "fp32", 4, 1)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_taps_of_the_quantised_network_are_close_to_those_at_fp32(small_vgg, backend):
    request = _request(*small_vgg)
    if "int8" not in BACKENDS[backend].probe().precisions:
        pytest.skip(f"{backend} does not run int8 here")
    request = replace(request, batch_size=16)
    images = probe_images(64, 64, 16, seed=9)  # not among those that it was quantised on
    expected = BACKENDS["onnxruntime"].compile(request).infer(images)
    found = BACKENDS[backend].compile(request.at("int8")).infer(images)
    assert list(found) == list(TAPS)
    assert all(tap.dtype == np.float32 for tap in found.values())
    for name in TAPS:
        assert found[name].shape == expected[name].shape
        assert 0 < tap_difference({name: found[name]}, {name: expected[name]}) < 0.1, name


def test_every_layer_rounds_its_weights_per_channel_and_what_it_reads(small_vgg):
    directory, _, _ = small_vgg
    graph = onnx.load(directory / "model.int8.onnx").graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm") and "evidence" not in node.name]
    assert [node.op_type for node in layers] == ["Conv"] * 13 + ["Gemm"] * 3
    for node in layers:
        values, weights = (producers[name] for name in node.input[:2])
        assert (values.op_type, weights.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert stored[values.input[2]].data_type == TensorProto.UINT8
        assert numpy_helper.to_array(stored[values.input[1]]).shape == ()
        assert stored[weights.input[0]].data_type == TensorProto.INT8
        scales = numpy_helper.to_array(stored[weights.input[1]])
        assert scales.shape == (stored[weights.input[0]].dims[0],)
        assert not numpy_helper.to_array(stored[weights.input[2]]).any()  # symmetric, as TensorRT wants it
        assert np.abs(numpy_helper.to_array(stored[weights.input[0]]).astype(int)).max() == 127
        assert stored[node.input[2]].data_type == TensorProto.FLOAT


def test_cooccurrence_stays_in_floating_point_and_reads_what_the_layers_gave(small_vgg):
    directory, _, _ = small_vgg
    graph = onnx.load(directory / "model.int8.onnx").graph
    own = [node for node in graph.node if "_cooccurrence_" in node.output[0]]
    plain = [node for node in onnx.load(directory / "model.onnx").graph.node if "_cooccurrence_" in node.output[0]]
    assert {node.op_type for node in own} == {node.op_type for node in plain}
    assert sum(node.op_type == "MatMul" for node in own) == len(COOCCURRENCES)
    taps = ("conv_last", *(wanted.name for wanted in COOCCURRENCES))
    request = replace(_request(*small_vgg, taps=taps), batch_size=16)
    images = probe_images(64, 64, 16, seed=9)
    expected = BACKENDS["onnxruntime"].compile(request).infer(images)
    found = BACKENDS["onnxruntime"].compile(request.at("int8")).infer(images)
    for name in taps:
        assert 0 < tap_difference({name: found[name]}, {name: expected[name]}) < 0.1, name


def test_the_pixels_and_the_constant_beside_them_are_rounded_to_themselves(small_vgg):
    directory, _, _ = small_vgg
    graph = onnx.load(directory / "model.int8.onnx").graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and "pixels" in node.input[0])
    assert stored[first.input[1]] == 1
    assert stored[first.input[2]] == 0


def test_taps_are_float_outputs_and_the_logits_are_not_rounded(small_vgg):
    directory, _, _ = small_vgg
    graph = onnx.load(directory / "model.int8.onnx").graph
    others = (wanted.name for wanted in COOCCURRENCES)
    assert [value.name for value in graph.output] == [*TAPS, *others, "evidence"]
    assert all(value.type.tensor_type.elem_type == TensorProto.FLOAT for value in graph.output)
    producers = {name: node.op_type for node in graph.node for name in node.output}
    assert producers["logits"] == "Gemm"


def test_the_way_back_to_the_maps_stays_in_floating_point_and_reads_the_rounded_weights(small_vgg):
    directory, manifest, quantised = small_vgg
    graph = onnx.load(directory / "model.int8.onnx").graph
    producers = {name: node for node in graph.node for name in node.output}
    back = [node for node in graph.node if node.op_type == "Gemm" and "evidence" in node.name]
    assert len(back) == 2
    assert all(producers[node.input[0]].op_type == "Mul" for node in back)
    layer, way_back = (
        next(n for n in graph.node if n.op_type == "Gemm" and n.output[0] == name)
        for name in ("classifier.3.sum", back[0].output[0])
    )
    assert producers[layer.input[1]].input == producers[way_back.input[1]].input
    floats = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2]
    assert [tuple(t.dims) for t in floats] == [(24, 16)]  # one value a map: what the first layer's weights mean

    request = replace(_request(directory, manifest, quantised, taps=("logits", "evidence")), batch_size=16)
    images = probe_images(64, 64, 16, seed=9)
    expected, found = (BACKENDS["onnxruntime"].compile(r).infer(images) for r in (request, request.at("int8")))
    same = expected["logits"].argmax(axis=1) == found["logits"].argmax(axis=1)
    assert same.mean() > 0.8
    assert tap_difference({"e": found["evidence"][same]}, {"e": expected["evidence"][same]}) < 0.15


def test_taps_that_are_not_wanted_are_not_computed(small_vgg):
    directory, manifest, quantised = small_vgg
    request = _request(directory, manifest, quantised, taps=("conv_last",)).at("int8")
    graph = open_graph(request.network, request.manifest, request.taps).graph
    assert [node.op_type for node in graph.node].count("Conv") == 13
    assert not [node for node in graph.node if node.op_type in ("Gemm", "Flatten")]
    assert not [tensor for tensor in graph.initializer if tensor.name.startswith("classifier")]
    images = probe_images(64, 64, 4)
    alone = BACKENDS["onnxruntime"].compile(request).infer(images)
    among = BACKENDS["onnxruntime"].compile(_request(directory, manifest, quantised).at("int8")).infer(images)
    np.testing.assert_allclose(alone["conv_last"], among["conv_last"], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("int8_runs")
def test_the_reference_for_int8_is_the_same_network_without_integers(small_vgg):
    request = _request(*small_vgg).at("int8")
    images = probe_images(64, 64, 4)
    integers = BACKENDS["onnxruntime"].compile(request).infer(images)
    floats = BACKENDS["onnxruntime"].compile(replace(request, precision="fp32")).infer(images)
    assert 0 < tap_difference(integers, floats) < 0.02


def test_the_same_images_give_the_same_file_whatever_else_the_model_has(small_vgg, tmp_path):
    directory, manifest, quantised = small_vgg
    # What it was quantised to before, and settings that need the evidence, which is not quantised.
    settings = {"p2c.signature": "evidence", "combined.heat": "evidence"}
    manifest = replace(manifest, quantised={"int8": quantised}, settings={**manifest.settings, **settings})
    quantise_network(directory / "model.onnx", manifest, probe_images(64, 64, 12), tmp_path / "again.onnx", threads=1)
    assert (tmp_path / "again.onnx").read_bytes() == (directory / "model.int8.onnx").read_bytes()


def test_a_quantised_network_is_not_quantised_again(small_vgg, tmp_path):
    directory, manifest, _ = small_vgg
    with pytest.raises(ModelError, match="is quantised already"):
        quantise_network(directory / "model.int8.onnx", manifest, probe_images(64, 64, 12), tmp_path / "twice.onnx")
    assert not list(tmp_path.iterdir())


def _network(nodes, weights, opset=17):
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "unit"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["maps"], perm=[0, 3, 1, 2]),
            *nodes,
            helper.make_node("GlobalAveragePool", ["last"], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["scores"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 6])],
        [
            numpy_helper.from_array(np.asarray(array, np.float32), name)
            for name, array in {"unit": 1 / 255, **weights}.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _manifest(classes=6):
    taps = {"conv_last": Tap("last", (classes, 8, 8)), "logits": Tap("scores", (classes,))}
    return Manifest("small", NetworkInput("image", 8, 8), taps, ("conv_last",))


def _infer(path, images, tap):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([tap], {"image": images})[0]


def _expected_and_found(folder, images, tap="conv_last", manifest=None):
    """A tap of the network in ``folder``, and of its quantised form beside it."""
    original = open_graph(folder / "model.onnx", manifest or _manifest(), (tap,)).SerializeToString()
    return _infer(original, images, tap), _infer(folder / "out.onnx", images, tap)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_rounding_the_weights_does_not_shift_the_mean(tmp_path, group, bias):
    """Weights of one large and many small values are rounded coarsely, all small ones alike: a shift of one sign."""
    rng = np.random.default_rng(0)
    weights = np.full((6, 3 // group, 1, 1), 0.0139, np.float32)  # 1.76 steps of 1/127, rounded up to 2
    weights[:, 0] = 1 if group == 1 else weights[:, 0]
    parts = {"weights": weights} | ({"bias": rng.standard_normal(6)} if bias else {})
    if group == 3:  # one weight an output, which rounding keeps
        parts["weights"] = np.full((6, 1, 2, 2), 0.0139, np.float32)
        parts["weights"][:, :, 0, 0] = 1
    nodes = [helper.make_node("Conv", ["maps", *parts], ["last"], group=group)]
    model = _network(nodes, parts)
    onnx.save(model, tmp_path / "model.onnx")
    manifest = _manifest()
    if group == 3:
        manifest = Manifest(**{**vars(manifest), "taps": {**manifest.taps, "conv_last": Tap("last", (6, 7, 7))}})
    images = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", manifest, images, tmp_path / "out.onnx", threads=1)
    expected, found = _expected_and_found(tmp_path, images, manifest=manifest)
    shift = (found - expected).mean(axis=(0, 2, 3))
    uncorrected = (2 / 127 - 0.0139) * 0.5 * (2 if group == 1 else 3)
    assert np.abs(shift).max() < uncorrected / 4
    assert 1e-4 < np.abs(found - expected).max() < 0.05


@pytest.mark.usefixtures("int8_runs")
def test_a_batch_normalisation_is_folded_and_an_old_opset_converted(tmp_path):
    rng = np.random.default_rng(1)
    weights = {"weights": rng.standard_normal((6, 3, 3, 3)), "gain": rng.uniform(0.5, 2, 6), "shift": np.zeros(6)}
    weights |= {"mean": rng.standard_normal(6), "variance": rng.uniform(0.5, 2, 6)}
    nodes = [
        helper.make_node("Conv", ["maps", "weights"], ["sum"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["sum", "gain", "shift", "mean", "variance"], ["normal"]),
        helper.make_node("Relu", ["normal"], ["last"]),
    ]
    onnx.save(_network(nodes, weights, opset=11), tmp_path / "model.onnx")
    images = rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", _manifest(), images, tmp_path / "out.onnx", threads=1)
    graph = onnx.load(tmp_path / "out.onnx").graph
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert [node for node in graph.node if node.op_type == "DequantizeLinear"]
    expected, found = _expected_and_found(tmp_path, images)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_what_a_residual_network_adds_is_not_rounded(tmp_path):
    """Block after block, an input goes on unrounded; what convolutions read of it is rounded, after the ReLU."""
    rng = np.random.default_rng(3)
    weights, nodes, last = {"first": rng.standard_normal((6, 3, 1, 1))}, [], "block0"
    nodes.append(helper.make_node("Conv", ["maps", "first"], ["sums0"]))
    nodes.append(helper.make_node("Relu", ["sums0"], ["block0"]))
    for k in range(1, 9):
        weights[f"w{k}"] = rng.standard_normal((6, 6, 3, 3)) * 0.02
        nodes.append(helper.make_node("Conv", [last, f"w{k}"], [f"conv{k}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Add", [f"conv{k}", last], [f"sums{k}"]))
        last = f"block{k}" if k < 8 else "last"
        nodes.append(helper.make_node("Relu", [f"sums{k}"], [last]))
    model = _network(nodes, weights)
    onnx.save(model, tmp_path / "model.onnx")
    images = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", _manifest(), images[:20], tmp_path / "out.onnx", threads=1)
    graph = onnx.load(tmp_path / "out.onnx").graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    assert [producers[name] for node in graph.node if node.op_type == "Add" for name in node.input] == [
        "Conv",
        "Relu",
    ] * 8
    assert [producers[node.input[0]] for node in graph.node if node.op_type == "Conv"] == ["DequantizeLinear"] * 9
    expected, found = _expected_and_found(tmp_path, images[20:])
    assert (expected == 0).any()  # the ReLU matters
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_a_tap_before_an_activation_function_keeps_what_that_cuts_off(tmp_path, activation):
    """The quantiser gives the sums before a ReLU the range of what comes out of it."""
    rng = np.random.default_rng(6)
    weights = {"weights": rng.standard_normal((6, 3, 3, 3)), "next": rng.standard_normal((6, 6, 1, 1))}
    weights |= {"low": 0, "high": 6} if activation == "Clip" else {}
    nodes = [
        helper.make_node("Conv", ["maps", "weights"], ["sums"], pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["sums", *(["low", "high"] if activation == "Clip" else [])], ["active"]),
        helper.make_node("Conv", ["active", "next"], ["last"]),
    ]
    onnx.save(_network(nodes, weights), tmp_path / "model.onnx")
    taps = {"conv_prev": Tap("sums", (6, 8, 8)), "active": Tap("active", (6, 8, 8)), **_manifest().taps}
    manifest = replace(_manifest(), taps=taps)
    images = rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", manifest, images, tmp_path / "out.onnx", threads=1)
    for name in taps:
        expected, found = _expected_and_found(tmp_path, images, name, manifest)
        assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected), name
        assert name != "conv_prev" or expected.min() < -1


@pytest.mark.parametrize("stored", [True, False])
def test_a_product_scales_its_weights_and_its_bias(tmp_path, stored, caplog):
    rng = np.random.default_rng(7)
    weights = {
        "filters": rng.standard_normal((6, 3, 1, 1)),
        "matrix": rng.standard_normal((8, 6)),
        "bias": rng.standard_normal(8),
        "last_matrix": rng.standard_normal((8, 6)),
    }
    bias = "bias" if stored else "half_of_it"
    nodes = [
        helper.make_node("Conv", ["maps", "filters"], ["last"]),
        helper.make_node("GlobalAveragePool", ["last"], ["means"]),
        helper.make_node("Flatten", ["means"], ["row"]),
        *([] if stored else [helper.make_node("GlobalAveragePool", ["maps"], ["greys"])]),
        *([] if stored else [helper.make_node("ReduceMean", ["greys"], ["grey"], axes=[1, 2, 3], keepdims=0)]),
        *([] if stored else [helper.make_node("Unsqueeze", ["grey", "one"], ["column"])]),
        *([] if stored else [helper.make_node("Mul", ["column", "bias"], ["half_of_it"])]),
        helper.make_node("Gemm", ["row", "matrix", bias], ["hidden"], transB=1, alpha=0.5, beta=3.0),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "last_matrix"], ["own_scores"]),
    ]
    model = _network(nodes, weights)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    onnx.save(model, tmp_path / "model.onnx")
    taps = {"conv_last": Tap("last", (6, 8, 8)), "hidden": Tap("hidden", (8,)), "logits": Tap("own_scores", (6,))}
    manifest = replace(_manifest(), taps=taps)
    images = rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", manifest, images, tmp_path / "out.onnx", threads=1)
    for name in taps:
        expected, found = _expected_and_found(tmp_path, images, name, manifest)
        assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected), name
    assert not caplog.records  # the quantiser has advice on biases that are computed


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_linear_layer_of_tokens_takes_its_mean_shift_back(tmp_path, precision):
    """As those of a transformer, which read images times tokens, here in patches of 2 x 2 pixels."""
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("Conv", ["maps", "patch"], ["patches"], strides=[2, 2]),
        helper.make_node("Transpose", ["patches"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["turned", "by_token"], ["tokens"]),
        helper.make_node("Gemm", ["tokens", "weights", "bias"], ["seen"], transB=1),
        helper.make_node("Reshape", ["seen", "by_image"], ["grids"]),
        helper.make_node("Transpose", ["grids"], ["last"], perm=[0, 3, 1, 2]),
    ]
    weights = {
        "patch": rng.standard_normal((7, 3, 2, 2)),
        "weights": rng.standard_normal((6, 7)),
        "bias": np.zeros(6),
    }
    model = _network(nodes, weights, opset=19)
    for name, shape in (("by_token", [-1, 7]), ("by_image", [-1, 4, 4, 6])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    onnx.save(model, tmp_path / "model.onnx")
    taps = {"conv_last": Tap("last", (6, 4, 4)), "logits": Tap("scores", (6,))}
    manifest = Manifest("small", NetworkInput("image", 8, 8), taps, ("conv_last",))
    images = rng.integers(100, 256, (13, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", manifest, images, tmp_path / "out.onnx", precision=precision)
    expected, found = _expected_and_found(tmp_path, images, manifest=manifest)
    shift = (found - expected).mean(axis=(0, 2, 3))
    assert np.abs(shift).max() < 2e-3 * np.abs(expected).max()


def test_a_small_variance_is_not_rounded_to_nothing_before_it_is_divided_by(tmp_path):
    """As in layer normalisation before opset 17, which exporters write out, on photos with plain areas."""
    rng = np.random.default_rng(10)
    weights = {"filters": rng.standard_normal((6, 3, 1, 1)), "next": rng.standard_normal((6, 6, 1, 1))}
    weights |= {"two": 2, "least": 1e-5}
    nodes = [
        helper.make_node("Conv", ["maps", "filters"], ["sums"]),
        helper.make_node("ReduceMean", ["sums"], ["mean"], axes=[1]),
        helper.make_node("Sub", ["sums", "mean"], ["centred"]),
        helper.make_node("Pow", ["centred", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[1]),
        helper.make_node("Add", ["variance", "least"], ["sum_of_both"]),
        helper.make_node("Sqrt", ["sum_of_both"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["normal"]),
        helper.make_node("Conv", ["normal", "next"], ["last"]),
    ]
    onnx.save(_network(nodes, weights), tmp_path / "model.onnx")
    taps = {"conv_prev": Tap("normal", (6, 8, 8)), **_manifest().taps}
    manifest = replace(_manifest(), taps=taps)
    images = rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    images[:, :4] //= 20  # dark, and of little variance
    images[:, 0, 0] = 0
    quantise_network(tmp_path / "model.onnx", manifest, images, tmp_path / "out.onnx", threads=1)
    for name in ("conv_prev", "conv_last"):
        expected, found = _expected_and_found(tmp_path, images, name, manifest)
        assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected), name


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_product_whose_weights_come_first_stays_in_floating_point(tmp_path, backend):
    """As in pooling by attention. OpenVINO gave 0 for one row of weights with a scale for each of its values."""
    if "int8" not in BACKENDS[backend].probe().precisions:
        pytest.skip(f"{backend} does not run int8 here")
    rng = np.random.default_rng(8)
    weights = {"filters": rng.standard_normal((6, 3, 3, 3)), "question": rng.standard_normal((1, 6))}
    weights |= {"matrix": rng.standard_normal((64, 6))}
    nodes = [
        helper.make_node("Conv", ["maps", "filters"], ["last"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["last", "rows"], ["cells"]),
        helper.make_node("MatMul", ["question", "cells"], ["answers"]),
        helper.make_node("Reshape", ["answers", "row"], ["line"]),
        helper.make_node("MatMul", ["line", "matrix"], ["own_scores"]),
    ]
    model = _network(nodes, weights)
    for name, shape in (("rows", [0, 6, -1]), ("row", [0, -1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    onnx.save(model, tmp_path / "model.onnx")
    taps = {"conv_last": Tap("last", (6, 8, 8)), "line": Tap("line", (64,)), "logits": Tap("own_scores", (6,))}
    manifest = replace(_manifest(), taps=taps)
    images = rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    int8 = tmp_path / "model.int8.onnx"
    quantised = quantise_network(tmp_path / "model.onnx", manifest, images, int8, threads=1)
    producers = {name: node.op_type for node in onnx.load(int8).graph.node for name in node.output}
    products = [node for node in onnx.load(int8).graph.node if node.op_type == "MatMul"]
    assert [[producers.get(name, "") for name in node.input] for node in products] == [
        ["", "DequantizeLinear"],
        ["DequantizeLinear", "DequantizeLinear"],
    ]
    written = write_manifest(replace(manifest, quantised={"int8": quantised}), tmp_path)
    request = CompileRequest(tmp_path / "model.onnx", written, tuple(taps), "fp32", 20, 1)
    expected = BACKENDS["onnxruntime"].compile(request).infer(images)
    found = BACKENDS[backend].compile(request.at("int8")).infer(images)
    assert tap_difference(found, expected) < 0.05


def test_weights_that_only_a_branch_reads_are_kept(tmp_path):
    rng = np.random.default_rng(9)
    weights = {"filters": rng.standard_normal((6, 3, 1, 1)), "one": rng.standard_normal((6, 6, 1, 1))}
    weights |= {"other": rng.standard_normal((6, 6, 1, 1)), "zero": 0}
    branches = {}
    for name in ("one", "other"):
        inside = [helper.make_node("Conv", ["positive", name], [f"by_{name}"])]
        given = helper.make_tensor_value_info(f"by_{name}", TensorProto.FLOAT, ["N", 6, 8, 8])
        branches[name] = helper.make_graph(inside, name, [], [given])
    nodes = [
        helper.make_node("Conv", ["maps", "filters"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["positive"]),
        helper.make_node("ReduceMax", ["positive"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["is_lit"]),
        helper.make_node("If", ["is_lit"], ["chosen"], then_branch=branches["one"], else_branch=branches["other"]),
        helper.make_node("Relu", ["chosen"], ["last"]),
    ]
    onnx.save(_network(nodes, weights), tmp_path / "model.onnx")
    images = rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", _manifest(), images, tmp_path / "out.onnx", threads=1)
    expected, found = _expected_and_found(tmp_path, images)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_a_channel_without_weights_keeps_its_bias(tmp_path):
    """ONNX Runtime adds a bias in steps of the channel's scale, which must not be 1 where weights are 0."""
    rng = np.random.default_rng(2)
    weights = {"weights": rng.standard_normal((6, 3, 1, 1)), "bias": rng.standard_normal(6) * 0.01}
    weights["weights"][2] = 0
    onnx.save(
        _network([helper.make_node("Conv", ["maps", "weights", "bias"], ["last"])], weights), tmp_path / "model.onnx"
    )
    images = rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    quantise_network(tmp_path / "model.onnx", _manifest(), images, tmp_path / "out.onnx", threads=1)
    found = _infer(tmp_path / "out.onnx", images, "logits")[:, 2]
    widest = np.abs(_infer(tmp_path / "out.onnx", images, "conv_last")).max()
    np.testing.assert_allclose(found, weights["bias"][2], atol=widest / 127)  # the step of the whole tensor


@pytest.mark.parametrize("operator", ["Relu", "Sigmoid"])
def test_a_network_with_nothing_to_quantise_is_said(tmp_path, operator):
    nodes = [helper.make_node(operator, ["maps"], ["last"])]
    model = _network(nodes, {})
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, tmp_path / "model.onnx")
    manifest = _manifest(classes=3)
    with pytest.raises(ModelError, match="nothing to quantise"):
        quantise_network(tmp_path / "model.onnx", manifest, np.zeros((10, 8, 8, 3), np.uint8), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize(("operator", "shift"), [("Sqrt", -1e-6), ("Log", 0)])
def test_values_that_are_not_finite_are_said_and_nothing_is_written(tmp_path, operator, shift, precision):
    """Those of a black spot in one photo of twelve: NaN, which lowest and highest values leave out, and -inf."""
    rng = np.random.default_rng(3)
    weights = {"first": rng.standard_normal((4, 3, 1, 1)) ** 2, "weights": rng.standard_normal((6, 4, 3, 3))}
    weights["shift"] = shift
    nodes = [
        helper.make_node("Conv", ["maps", "first"], ["sums"]),
        helper.make_node("Add", ["sums", "shift"], ["shifted"]),
        helper.make_node(operator, ["shifted"], ["read"]),
        helper.make_node("Conv", ["read", "weights"], ["last"], pads=[1, 1, 1, 1]),
    ]
    onnx.save(_network(nodes, weights), tmp_path / "model.onnx")
    images = rng.integers(1, 256, (12, 8, 8, 3)).astype(np.uint8)
    images[9, 2:4] = 0
    with pytest.raises(ModelError, match=r"'read' of .* holds values that are not finite for some of the photos"):
        quantise_network(
            tmp_path / "model.onnx", _manifest(), images, tmp_path / "out.onnx", precision=precision, threads=1
        )
    assert not (tmp_path / "out.onnx").exists()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(small_vgg, tmp_path):
    directory, manifest, _ = small_vgg
    (tmp_path / "out.onnx").mkdir()
    with pytest.raises(OSError, match=r"out\.onnx"):
        quantise_network(directory / "model.onnx", manifest, probe_images(64, 64, 12), tmp_path / "out.onnx", threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
