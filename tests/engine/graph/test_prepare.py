"""Tests of pc_engine.graph.prepare: what a backend is given to compile."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import IMAGE
from pc_engine.errors import ManifestError, ModelError
from pc_engine.files.digest import file_sha256
from pc_engine.graph.prepare import cut_graph, input_tensor, load_graph, open_graph
from pc_engine.manifest import Manifest, NetworkInput, Tap

MODELS = Path(os.environ.get("PC_ENGINE_TEST_DATA", Path(__file__).parents[4] / "shared/data")).parent / "models"
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
SIZE = 6
TAPS = {"conv_prev": "act1", "conv_last": "act2", "logits": "scores"}
SHAPES = {"conv_prev": (5, SIZE, SIZE), "conv_last": (7, SIZE, SIZE), "logits": (4,)}


def small_network(
    *,
    layout="NCHW",
    batch="batch",
    dtype=TensorProto.FLOAT,
    input_name="x",
    names=TAPS,
    flatten="Flatten",
    opset=17,
    seed=0,
):
    """Two convolutions, global mean, one linear layer; taps by ``names``."""
    rng = np.random.default_rng(seed)
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)

    def weight(name, *shape):
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(numpy_type), name)

    initializers = [
        weight("w1", 5, 3, 3, 3),
        weight("w2", 7, 5, 3, 3),
        weight("fc", 4, 7),
        numpy_helper.from_array(np.array([1, -1]), "flat_shape"),
    ]
    first, nodes = input_name, []
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [input_name], ["chw"], perm=[0, 3, 1, 2]))
        first = "chw"
    flat = {
        "Flatten": helper.make_node("Flatten", ["mean"], ["flat"]),
        "Reshape": helper.make_node("Reshape", ["mean", "flat_shape"], ["flat"]),
        "Constant": helper.make_node("Reshape", ["mean", "flat_constant"], ["flat"]),
        "allowzero": helper.make_node("Reshape", ["mean", "flat_shape"], ["flat"], allowzero=1),
    }[flatten]
    if flatten == "Constant":
        shape = numpy_helper.from_array(np.array([1, 7]))
        nodes.append(helper.make_node("Constant", [], ["flat_constant"], value=shape))
    nodes += [
        helper.make_node("Conv", [first, "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], [names["conv_prev"]]),
        helper.make_node("Conv", [names["conv_prev"], "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], [names["conv_last"]]),
        helper.make_node("GlobalAveragePool", [names["conv_last"]], ["mean"]),
        flat,
        helper.make_node("Gemm", ["flat", "fc"], [names["logits"]], transB=1),
    ]
    dims = [batch, 3, SIZE, SIZE] if layout == "NCHW" else [batch, SIZE, SIZE, 3]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(input_name, dtype, dims)],
        [helper.make_tensor_value_info(names["logits"], dtype, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def manifest_of(model, *, names=TAPS, shapes=SHAPES, **pixels):
    declared = {"layout": "NCHW", "dtype": "float32", "mean": MEAN, "std": STD, **pixels}
    return Manifest(
        name="small",
        input=NetworkInput(model.graph.input[0].name, SIZE, SIZE, **declared),
        taps={name: Tap(tensor, shapes[name]) for name, tensor in names.items()},
        count_features=("logits",),
    )


def run(model, images, outputs=None):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, {session.get_inputs()[0].name: images})


def prepare_graph(model, manifest, taps):
    """The graph that a run makes of a network in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        return open_graph(path, manifest, taps)


def photos(n=3, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def expected_taps(images, *, layout="NCHW", channels="RGB", seed=0):
    """Return the taps of ``small_network`` by running the unprepared graph on pixels normalised by NumPy."""
    model = small_network(layout=layout, seed=seed)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("act1", "act2"))
    pixels = (images.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    pixels = pixels[..., ::-1] if channels == "BGR" else pixels
    pixels = pixels.transpose(0, 3, 1, 2) if layout == "NCHW" else pixels
    return dict(zip(TAPS, run(model, np.ascontiguousarray(pixels), list(TAPS.values())), strict=True))


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_preprocessing_is_prepended_as_the_manifest_says(layout, channels):
    model = small_network(layout=layout)
    prepared = prepare_graph(model, manifest_of(model, layout=layout, channels=channels), list(TAPS))
    onnx.checker.check_model(prepared, full_check=True)

    (value,) = prepared.graph.input
    assert value.name == IMAGE
    assert value.type.tensor_type.elem_type == TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == ["N", SIZE, SIZE, 3]
    assert [output.name for output in prepared.graph.output] == list(TAPS)
    images = photos()
    wanted = expected_taps(images, layout=layout, channels=channels)
    for name, found in zip(TAPS, run(prepared, images), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_no_preprocessing_node_stands_where_there_is_nothing_to_do():
    model = small_network()
    manifest = manifest_of(model, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    operators = [node.op_type for node in prepare_graph(model, manifest, ["logits"]).graph.node]
    assert operators[:3] == ["Cast", "Transpose", "Conv"]


def test_uint8_network_is_passed_through():
    model = small_network()
    canonical = prepare_graph(model, manifest_of(model), list(TAPS))
    names = {name: name for name in TAPS}
    manifest = manifest_of(canonical, names=names, layout="NHWC", dtype="uint8")
    again = prepare_graph(canonical, manifest, list(TAPS))
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in canonical.graph.node]
    images = photos()
    for a, b in zip(run(again, images), run(canonical, images), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_what_a_tap_needs_stays():
    model = small_network()
    prepared = prepare_graph(model, manifest_of(model), ["conv_prev"])
    assert [output.name for output in prepared.graph.output] == ["conv_prev"]
    kept = {tensor.name for tensor in prepared.graph.initializer}
    assert "w1" in kept
    assert not kept & {"w2", "fc"}
    assert sum(node.op_type == "Conv" for node in prepared.graph.node) == 1


def test_a_network_in_memory_is_cut_as_one_in_a_file_and_stays_as_it_is():
    model = small_network(batch=1, flatten="Reshape")
    before = model.SerializeToString(deterministic=True)
    manifest = manifest_of(model)
    for taps in (["conv_last"], ["logits", "conv_prev"]):
        one = prepare_graph(model, manifest, taps)
        two = cut_graph(model, "small", manifest.input, {tap: TAPS[tap] for tap in taps})
        assert model.SerializeToString(deterministic=True) == before
        for a, b in zip(run(one, photos()), run(two, photos()), strict=True):
            np.testing.assert_array_equal(a, b)
        assert {t.name for t in one.graph.initializer} == {t.name for t in two.graph.initializer}


@pytest.mark.parametrize("flatten", ["Flatten", "Reshape", "Constant", "allowzero"])
def test_fixed_batch_becomes_dynamic(flatten):
    model = small_network(batch=1, flatten=flatten)
    images = photos(5)
    found = run(prepare_graph(model, manifest_of(model), list(TAPS)), images)
    wanted = expected_taps(images)
    for name, values in zip(TAPS, found, strict=True):
        np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-5)


def test_a_size_of_1_inside_a_network_of_any_batch_size_is_not_taken_for_the_batch():
    model = small_network(flatten="Constant")
    with pytest.raises(ModelError, match="fixes the batch size at 1"):
        prepare_graph(model, manifest_of(model), ["logits"])


def test_batch_that_stays_fixed_inside_is_refused():
    model = small_network(batch=1)
    gemm = model.graph.node[-1]
    model.graph.node.insert(6, helper.make_node("ReduceMean", [gemm.input[0]], ["batch_mean"], axes=[0], keepdims=1))
    gemm.input[0] = "batch_mean"
    with pytest.raises(ModelError, match="fixes the batch size at 1"):
        prepare_graph(model, manifest_of(model), ["logits"])


def test_names_that_clash_are_kept_apart():
    """The network's own tensors are called like the input and like each other's taps."""
    names = {"conv_prev": "logits", "conv_last": "conv_prev", "logits": "conv_last"}
    model = small_network(input_name="image", names=names)
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for k, name in enumerate(tensors):
                tensors[k] = {"c1": "image_1", "c2": "conv_prev_1"}.get(name, name)
    images = photos()
    wanted = expected_taps(images)
    for taps in (list(TAPS), ["logits"], ["conv_last", "conv_prev"]):
        prepared = prepare_graph(model, manifest_of(model, names=names), taps)
        onnx.checker.check_model(prepared)
        for name, values in zip(taps, run(prepared, images), strict=True):
            np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-5)


def test_two_taps_may_share_a_tensor():
    model = small_network()
    names = {**TAPS, "features": "act2"}
    manifest = manifest_of(model, names=names, shapes={**SHAPES, "features": SHAPES["conv_last"]})
    features, last = run(prepare_graph(model, manifest, ["features", "conv_last"]), photos())
    np.testing.assert_array_equal(features, last)
    assert np.ptp(last) > 0


def test_half_precision_network_gives_float32_taps():
    model = small_network(dtype=TensorProto.FLOAT16)
    prepared = prepare_graph(model, manifest_of(model), list(TAPS))
    onnx.checker.check_model(prepared, full_check=True)
    images = photos()
    for found, wanted in zip(run(prepared, images), expected_taps(images).values(), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=2e-2)


def test_weights_read_only_by_a_subgraph_survive():
    model = small_network()
    graph = model.graph
    weight = graph.initializer[2]
    assert weight.name == "fc"
    then_graph, else_graph = (
        helper.make_graph(
            [helper.make_node("Gemm", ["flat", "fc"], [f"out_{k}"], transB=1)],
            f"branch_{k}",
            [],
            [helper.make_tensor_value_info(f"out_{k}", TensorProto.FLOAT, None)],
        )
        for k in range(2)
    )
    del graph.node[-1]
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph.node.append(helper.make_node("If", ["yes"], ["scores"], then_branch=then_graph, else_branch=else_graph))
    images = photos()
    (found,) = run(prepare_graph(model, manifest_of(model), ["logits"]), images)
    np.testing.assert_allclose(found, expected_taps(images)["logits"], rtol=1e-5, atol=1e-5)


def test_initializers_listed_as_inputs_are_no_inputs():
    model = small_network()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [5, 3, 3, 3]))
    assert input_tensor(model).name == "x"
    prepared = prepare_graph(model, manifest_of(model), ["logits"])
    onnx.checker.check_model(prepared)
    assert [value.name for value in prepared.graph.input] == [IMAGE]
    images = photos()
    np.testing.assert_allclose(run(prepared, images)[0], expected_taps(images)["logits"], rtol=1e-5, atol=1e-5)


@settings(max_examples=25)
@given(
    taps=st.lists(st.sampled_from(sorted(TAPS)), min_size=1, max_size=5),
    n=st.integers(1, 4),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    batch=st.sampled_from(["batch", 1, None]),
    seed=st.integers(0, 5),
)
def test_any_choice_of_taps_gives_their_values_in_order(taps, n, layout, batch, seed):
    model = small_network(layout=layout, batch=batch, flatten="Flatten", seed=seed)
    prepared = prepare_graph(model, manifest_of(model, layout=layout), taps)
    images = photos(n, seed)
    wanted = expected_taps(images, layout=layout, seed=seed)
    unique = list(dict.fromkeys(taps))
    assert [output.name for output in prepared.graph.output] == unique
    for name, found in zip(unique, run(prepared, images), strict=True):
        np.testing.assert_allclose(found, wanted[name], rtol=1e-5, atol=1e-5)


class TestRefusals:
    def test_tap_that_the_manifest_lacks(self):
        model = small_network()
        with pytest.raises(ManifestError, match=r"no tap 'fc6', only \['conv_last', 'conv_prev', 'logits'\]"):
            prepare_graph(model, manifest_of(model), ["fc6"])

    def test_tensor_that_the_graph_lacks_is_answered_with_the_closest(self):
        model = small_network()
        manifest = manifest_of(model, names={**TAPS, "logits": "score"})
        with pytest.raises(ManifestError, match=r"'logits'.*tensor 'score'.*closest names are 'scores'"):
            prepare_graph(model, manifest, ["logits"])

    def test_no_tap_at_all(self):
        model = small_network()
        with pytest.raises(ManifestError, match="No tap"):
            prepare_graph(model, manifest_of(model), [])

    def test_unknown_input(self):
        model = small_network()
        manifest = manifest_of(model)
        manifest = replace(manifest, input=replace(manifest.input, tensor="data"))
        with pytest.raises(ManifestError, match=r"inputs \['x'\], but 'data'"):
            prepare_graph(model, manifest, ["logits"])

    def test_second_input(self):
        model = small_network()
        model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [4]))
        model.graph.node[-1].input.append("bias")
        prepare_graph(model, manifest_of(model), ["conv_last"])
        with pytest.raises(ModelError, match="second input, 'bias'"):
            prepare_graph(model, manifest_of(model), ["logits"])

    @pytest.mark.parametrize(
        ("pixels", "text"),
        [
            ({"dtype": "uint8", "layout": "NHWC"}, "declares a uint8 input, but 'x' is of type float"),
            ({"layout": "NHWC"}, "declares an input of NHWC size"),
        ],
    )
    def test_input_of_another_form(self, pixels, text):
        model = small_network()
        with pytest.raises(ManifestError, match=text):
            prepare_graph(model, manifest_of(model, **pixels), ["logits"])

    def test_input_of_another_size(self):
        model = small_network()
        manifest = manifest_of(model)
        manifest = replace(manifest, input=replace(manifest.input, height=SIZE + 2))
        with pytest.raises(ManifestError, match=r"\(3, 8, 6\).*correct"):
            prepare_graph(model, manifest, ["logits"])

    def test_tap_shape_that_disagrees(self):
        model = small_network()
        manifest = manifest_of(model, shapes={**SHAPES, "conv_last": (9, SIZE, SIZE)})
        with pytest.raises(ManifestError, match=r"'conv_last'.*\(9, 6, 6\).*\(7, 6, 6\)"):
            prepare_graph(model, manifest, ["conv_last"])

    def test_integer_tap(self):
        model = small_network()
        model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["best"], axis=1))
        manifest = manifest_of(model, names={**TAPS, "best": "best"}, shapes={**SHAPES, "best": (1,)})
        with pytest.raises(ManifestError, match=r"'best'.*of type int64"):
            prepare_graph(model, manifest, ["best"])

    def test_old_opset(self):
        model = small_network(opset=6)
        with pytest.raises(ModelError, match="opset 6, at least 7"):
            prepare_graph(model, manifest_of(model), ["logits"])

    @pytest.mark.parametrize("where", ["initializer", "constant", "subgraph"])
    def test_external_data(self, tmp_path, where):
        model = small_network()
        if where == "initializer":
            tensor = model.graph.initializer[0]
        else:
            node = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.zeros(3, np.float32), "k"))
            if where == "subgraph":
                body = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [3])])
                node = helper.make_node("If", ["yes"], ["k2"], then_branch=body, else_branch=body)
                model.graph.node.append(node)
                tensor = model.graph.node[-1].attribute[0].g.node[0].attribute[0].t
            else:
                model.graph.node.append(node)
                tensor = model.graph.node[-1].attribute[0].t
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../secret")
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match=f"model.onnx keeps the tensor '{tensor.name}' in another file"):
            load_graph(path)

    @pytest.mark.parametrize("where", ["beside", "above", "absolute", "symbolic link", "hard link", "no mark"])
    def test_external_data_wherever_it_lies(self, tmp_path, where):
        folder, secret = tmp_path / "model", tmp_path / "secret"
        folder.mkdir()
        model = small_network()
        tensor = model.graph.initializer[0]
        secret.write_bytes(tensor.raw_data)
        location = {"above": "../secret", "absolute": str(secret)}.get(where, "weights")
        if where == "symbolic link":
            (folder / "weights").symlink_to(secret)
        elif where == "hard link":
            (folder / "weights").hardlink_to(secret)
        elif location == "weights":
            (folder / "weights").write_bytes(tensor.raw_data)
        if where != "no mark":
            tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.ClearField("raw_data")
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match=r"keeps the tensor 'w1' in another file; only one-file ONNX is read"):
            load_graph(path)
        with pytest.raises(ModelError, match="in another file"):
            open_graph(path, manifest_of(model), ["logits"])

    @pytest.mark.parametrize("what", ["tensor", "node", "operator", "attribute", "file"])
    def test_names_that_are_no_text(self, tmp_path, what):
        model = small_network()
        model.graph.initializer[0].external_data.add(key="location", value="a_file")
        operators = {"operator": "an_operator", "attribute": "an_attribute"}
        old = {"tensor": "a_tensor", "node": "a_node", "file": "a_file", **operators}[what]
        attribute = {"an_attribute": 1} if what == "attribute" else {}
        operator = "an_operator" if what == "operator" else "Relu"
        node = helper.make_node(operator, ["image"], ["a_tensor"], name="a_node", **attribute)
        model.graph.node.append(node)
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString().replace(old.encode(), b"\xff" + old.encode()[1:]))
        with pytest.raises(ModelError, match=r"model\.onnx is damaged: names in it are not text"):
            load_graph(path)

    def test_external_data_of_a_function_and_of_sparse_weights(self, tmp_path):
        path = tmp_path / "model.onnx"
        for where in ("function", "sparse"):
            model = small_network()
            tensor = numpy_helper.from_array(np.ones(3, np.float32), "k")
            tensor.data_location = TensorProto.EXTERNAL
            if where == "function":
                node = helper.make_node("Constant", [], ["y"], value=tensor)
                model.functions.append(helper.make_function("own", "F", [], ["y"], [node], model.opset_import))
            else:
                sparse = model.graph.sparse_initializer.add()
                sparse.values.CopyFrom(tensor)
            path.write_bytes(model.SerializeToString())
            with pytest.raises(ModelError, match="in another file"):
                load_graph(path)

    @pytest.mark.parametrize("missing", ["ir_version", "opset_import", "node", "output"])
    def test_a_file_with_a_part_of_a_network(self, tmp_path, missing):
        model = small_network()
        (model if hasattr(model, missing) else model.graph).ClearField(missing)
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match=r"model\.onnx holds no complete ONNX network; export or copy it again"):
            load_graph(path)

    def test_a_tap_that_is_called_like_the_input(self):
        model = small_network()
        manifest = manifest_of(model)
        manifest = replace(manifest, taps={**manifest.taps, IMAGE: manifest.taps["logits"]})
        with pytest.raises(ManifestError, match="is called 'image', the name of the input; rename it"):
            prepare_graph(model, manifest, [IMAGE])

    def test_bytes_that_changed_since_they_were_summed(self, tmp_path):
        model = small_network()
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        manifest = replace(manifest_of(model), files={"model.onnx": file_sha256(path)})
        assert open_graph(path, manifest, ["logits"]).graph.node
        path.write_bytes(small_network(seed=1).SerializeToString())
        with pytest.raises(ManifestError, match="changed while it was in use"):
            open_graph(path, manifest, ["logits"])

    @settings(max_examples=40)
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_truncated_file(self, tmp_path_factory, share):
        content = small_network().SerializeToString()
        path = tmp_path_factory.mktemp("cut") / "cut.onnx"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelError, match=r"cut\.onnx"):
            load_graph(path)

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"version https://git-lfs", b"{}", b"\x08\x08"])
    def test_not_onnx(self, tmp_path, content):
        path = tmp_path / "x.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"x\.onnx"):
            load_graph(path)

    def test_absent_file_and_folder(self, tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            load_graph(tmp_path / "none.onnx")
        with pytest.raises(ModelError, match="cannot be read"):
            load_graph(tmp_path)


@pytest.mark.data
def test_real_network():
    path = MODELS / "mobilenet_v2/model.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    manifest = Manifest(
        name="mobilenet_v2",
        input=NetworkInput("image", 224, 224, "NCHW", "float32", "RGB", (128.0,) * 3, (128.0,) * 3),
        taps={"conv_last": Tap("conv_last", (1280, 7, 7)), "logits": Tap("logits", (1001,))},
        count_features=("logits",),
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    prepared = open_graph(path, manifest, ["logits", "conv_last"])
    logits, last = run(prepared, images)
    wanted = run(
        onnx.load(path), (images.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 128, ["logits", "conv_last"]
    )
    np.testing.assert_allclose(logits, wanted[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(last, wanted[1], rtol=1e-4, atol=1e-4)
