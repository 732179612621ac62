"""Evidence against derivatives found by other means: PyTorch's, and finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backends.signal_stack import signal_stack_kept
from pc_engine.errors import ModelError
from pc_engine.export import build_vgg
from pc_engine.export.evidence import append_evidence

SIZE, CHANNELS, CLASSES, GRID = 8, 5, 4, 4


@dataclass
class Cnn:
    """A network of one convolution on [N, 3, 8, 8] that gives ``maps`` [N, 5, 4, 4], and the head that is added."""

    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.stored["w"] = rng.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32)
        self.add("Conv", ["image", "w"], "sums", pads=[1] * 4, strides=[2, 2])
        self.add("Relu", ["sums"], "maps")

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "cnn",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.stored.items()],
        )
        ir_version = 8 if self.opset >= 15 else 7
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)


def weights(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


IMAGES = np.random.default_rng(5).standard_normal((6, 3, SIZE, SIZE)).astype(np.float32)


def run(model: onnx.ModelProto, names: Sequence[str], images: np.ndarray = IMAGES) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    for name in names:
        if name not in {value.name for value in model.graph.output}:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, {"image": images})


def head_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The network from its maps on."""
    head = onnx.ModelProto()
    head.CopyFrom(model)
    del head.graph.input[:]
    head.graph.input.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", CHANNELS, GRID, GRID]))
    del head.graph.node[:2]
    del head.graph.output[1:]
    return onnxruntime.InferenceSession(head.SerializeToString(), providers=["CPUExecutionProvider"])


def numeric(model: onnx.ModelProto, maps: np.ndarray, step: float = 1e-2) -> np.ndarray:
    """By how much the best class's logit grows as all cells of a map do, each image's maps in turn."""
    head = head_of(model)
    logits = lambda values: head.run(["logits"], {"maps": values})[0]  # noqa: E731
    best = logits(maps).argmax(axis=1)
    found = np.zeros(maps.shape[:2])
    for channel in range(CHANNELS):
        for sign in (1, -1):
            moved = maps.copy()
            moved[:, channel] += sign * step
            found[:, channel] += sign * logits(moved)[np.arange(len(maps)), best] / (2 * step)
    return found


def gap_gemm(cnn: Cnn) -> None:
    cnn.stored |= {"fc": weights(CLASSES, CHANNELS), "b": weights(CLASSES)}
    cnn.add("GlobalAveragePool", ["maps"], "pooled")
    cnn.add("Flatten", ["pooled"], "row")
    cnn.add("Gemm", ["row", "fc", "b"], "logits", transB=1)


def mean_matmul_add(cnn: Cnn) -> None:
    cnn.stored |= {"fc": weights(CHANNELS, CLASSES), "b": weights(CLASSES)}
    cnn.add("ReduceMean", ["maps"], "row", axes=[2, 3], keepdims=0)
    cnn.add("MatMul", ["row", "fc"], "product")
    cnn.add("Add", ["b", "product"], "logits")


def mean_with_axes_as_an_input(cnn: Cnn) -> None:
    cnn.opset = 18
    cnn.stored |= {"fc": weights(CHANNELS, CLASSES), "axes": np.array([-1, -2]), "flat": np.array([0, -1])}
    cnn.add("ReduceMean", ["maps", "axes"], "pooled")
    cnn.add("Reshape", ["pooled", "flat"], "row")
    cnn.add("Gemm", ["row", "fc"], "logits")


def channels_last(cnn: Cnn) -> None:
    cnn.stored |= {"fc": weights(CHANNELS, CLASSES)}
    cnn.add("Transpose", ["maps"], "nhwc", perm=[0, 2, 3, 1])
    cnn.add("ReduceMean", ["nhwc"], "row", axes=[1, 2], keepdims=0)
    cnn.add("MatMul", ["row", "fc"], "logits")


def relu_with_channels_last(cnn: Cnn) -> None:
    cnn.stored |= {"fc": weights(GRID * GRID * CHANNELS, CLASSES), "one": np.float32(1)}
    cnn.add("Add", ["maps", "one"], "lifted")  # where a ReLU bends, no difference tells a derivative
    cnn.add("Transpose", ["lifted"], "nhwc", perm=[0, 2, 3, 1])
    cnn.add("Relu", ["nhwc"], "positive")
    cnn.add("Flatten", ["positive"], "row")
    cnn.add("Gemm", ["row", "fc"], "logits")


def convolution_for_the_classes(cnn: Cnn) -> None:
    cnn.stored |= {"fc": weights(CLASSES, CHANNELS, 1, 1), "b": weights(CLASSES), "axes": np.array([2, 3])}
    cnn.add("GlobalAveragePool", ["maps"], "pooled")
    cnn.add("Conv", ["pooled", "fc", "b"], "scores", kernel_shape=[1, 1])
    cnn.add("Squeeze", ["scores", "axes"], "logits")


def weights_stored_in_half(cnn: Cnn) -> None:
    cnn.stored |= {"half": weights(CLASSES, CHANNELS).astype(np.float16)}
    cnn.add("Cast", ["half"], "fc", to=TensorProto.FLOAT)
    cnn.add("GlobalAveragePool", ["maps"], "pooled")
    cnn.add("Flatten", ["pooled"], "row")
    cnn.add("Dropout", ["row"], "kept")
    cnn.add("Gemm", ["kept", "fc"], "logits", transB=1)


def normalised_logits(cnn: Cnn) -> None:
    gap_gemm(cnn)
    cnn.nodes[-1].output[0] = "scores"
    cnn.add("LogSoftmax", ["scores"], "logits")


def with_branches(what: str) -> onnx.ModelProto:
    """A network with an If behind a tensor, as scripted modules have them: its own input is a flag, which is stored."""
    cnn = Cnn()
    gap_gemm(cnn)
    shape = ["N", CHANNELS, GRID, GRID] if what == "maps" else ["N", CHANNELS]
    branches = [
        helper.make_graph(
            [helper.make_node(operator, [what], [f"by_{operator}"])],
            operator,
            [],
            [helper.make_tensor_value_info(f"by_{operator}", TensorProto.FLOAT, shape)],
        )
        for operator in ("Identity", "Abs")
    ]
    cnn.stored["flag"] = np.array(True)
    at = next(k for k, node in enumerate(cnn.nodes) if what in node.output) + 1
    chosen = helper.make_node("If", ["flag"], ["chosen"], then_branch=branches[0], else_branch=branches[1])
    cnn.nodes[at].input[0] = "chosen"
    cnn.nodes.insert(at, chosen)
    return cnn.model()


def test_a_branch_that_reads_what_lies_outside_of_it_depends_on_the_image() -> None:
    assert append_evidence(with_branches("maps")).maps == "chosen"
    with pytest.raises(ModelError, match=r"leads through 'chosen' \(If\)"):
        append_evidence(with_branches("row"))


def test_rows_that_were_turned_are_traced_to_their_maps() -> None:
    cnn = Cnn()
    relu_with_channels_last(cnn)
    model = cnn.model()
    found = append_evidence(model)
    assert found.maps == "lifted"
    maps, evidence = run(model, ["maps", found.tensor])
    np.testing.assert_allclose(evidence, numeric(cnn.model(), maps) / GRID**2, rtol=1e-3, atol=1e-3)


def convolution_between_vectors_that_are_turned(cnn: Cnn) -> None:
    """As Keras' networks have it, whose channels are last."""
    cnn.stored |= {"fc": weights(CLASSES, CHANNELS, 1, 1), "b": weights(CLASSES)}
    cnn.add("Transpose", ["maps"], "nhwc", perm=[0, 2, 3, 1])
    cnn.add("ReduceMean", ["nhwc"], "pooled", axes=[1, 2], keepdims=1)
    cnn.add("Transpose", ["pooled"], "pooled_first", perm=[0, 3, 1, 2])
    cnn.add("Conv", ["pooled_first", "fc", "b"], "scores_first")
    cnn.add("Transpose", ["scores_first"], "scores", perm=[0, 2, 3, 1])
    cnn.add("Flatten", ["scores"], "logits")


def convolution_that_is_averaged(cnn: Cnn) -> None:
    """As SqueezeNet's, whose kernel is told by the weights alone here."""
    cnn.stored |= {"fc": weights(CLASSES, CHANNELS, 1, 1), "b": weights(CLASSES)}
    cnn.add("Dropout", ["maps"], "kept")
    cnn.add("Conv", ["kept", "fc", "b"], "by_class")
    cnn.add("AveragePool", ["by_class"], "pooled", kernel_shape=[GRID, GRID])
    cnn.add("Flatten", ["pooled"], "logits")


LINEAR = [
    convolution_between_vectors_that_are_turned,
    convolution_that_is_averaged,
    gap_gemm,
    mean_matmul_add,
    mean_with_axes_as_an_input,
    channels_last,
    convolution_for_the_classes,
    weights_stored_in_half,
]


@pytest.mark.parametrize("head", LINEAR)
def test_evidence_of_a_linear_head_is_the_derivative_by_each_map(head: Any) -> None:
    cnn = Cnn()
    head(cnn)
    model = cnn.model()
    found = append_evidence(model)
    assert (found.maps, found.is_linear) == ("maps", True)
    evidence, maps = run(model, [found.tensor, "maps"])
    np.testing.assert_allclose(evidence, numeric(model, maps), rtol=1e-3, atol=1e-3)


def test_a_relu_before_the_classes_maps_are_averaged_is_left_aside() -> None:
    cnn = Cnn()
    convolution_that_is_averaged(cnn)
    cnn.nodes[-2].input[0] = "positive"
    cnn.nodes.insert(-2, helper.make_node("Relu", ["by_class"], ["positive"]))
    model = cnn.model()
    found = append_evidence(model)
    assert (found.maps, found.is_linear) == ("maps", True)
    evidence, logits = run(model, [found.tensor, "logits"])
    np.testing.assert_array_equal(evidence, cnn.stored["fc"][logits.argmax(axis=1), :, 0, 0])


@pytest.mark.parametrize("change", ["wide kernel", "strides", "a part", "softmax"])
def test_other_convolutions_that_are_averaged_give_no_evidence(change: str) -> None:
    cnn = Cnn()
    convolution_that_is_averaged(cnn)
    if change == "wide kernel":
        cnn.stored["fc"] = weights(CLASSES, CHANNELS, 3, 3)
        cnn.nodes[-2].attribute[0].ints[:] = [GRID - 2] * 2
    elif change == "strides":
        cnn.nodes[-3].attribute.append(helper.make_attribute("strides", [2, 2]))
        cnn.nodes[-2].attribute[0].ints[:] = [GRID // 2] * 2
    elif change == "a part":
        cnn.stored["all"] = np.array([0, CLASSES])
        cnn.nodes[-2].attribute[0].ints[:] = [GRID - 1] * 2
        cnn.nodes[-2].attribute.append(helper.make_attribute("strides", [GRID] * 2))
        cnn.nodes[-3].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    else:
        cnn.nodes.insert(-2, helper.make_node("Softmax", ["by_class"], ["shares"], axis=1))
        cnn.nodes[-2].input[0] = "shares"
    with pytest.raises(ModelError, match="the way from the logits back to the feature maps leads through"):
        append_evidence(cnn.model())


def test_evidence_is_that_for_the_logit_though_probabilities_are_named() -> None:
    plain, normalised = Cnn(), Cnn()
    gap_gemm(plain)
    normalised_logits(normalised)
    found = []
    for cnn in (plain, normalised):
        model = cnn.model()
        found.append(run(model, [append_evidence(model).tensor])[0])
    np.testing.assert_array_equal(*found)


def flatten_gemm(cnn: Cnn) -> None:
    cnn.stored |= {"fc": weights(CLASSES, CHANNELS * GRID**2)}
    cnn.add("Flatten", ["maps"], "row")
    cnn.add("Gemm", ["row", "fc"], "logits", transB=1)


def two_layers(cnn: Cnn) -> None:
    cnn.stored |= {"f1": weights(9, CHANNELS * GRID**2), "b1": weights(9, seed=2), "f2": weights(9, CLASSES, seed=3)}
    cnn.add("Flatten", ["maps"], "row")
    cnn.add("Gemm", ["row", "f1", "b1"], "sum", transB=1)
    cnn.add("Relu", ["sum"], "hidden")
    cnn.add("MatMul", ["hidden", "f2"], "logits")


def two_layers_channels_last(cnn: Cnn) -> None:
    two_layers(cnn)
    cnn.nodes[2].input[0] = "nhwc"
    cnn.nodes.insert(2, helper.make_node("Transpose", ["maps"], ["nhwc"], perm=[0, 2, 3, 1]))


def convolutions_all_the_way(cnn: Cnn) -> None:
    cnn.stored |= {"f1": weights(9, CHANNELS, GRID, GRID), "f2": weights(CLASSES, 9, 1, 1, seed=3)}
    cnn.add("Conv", ["maps", "f1"], "sum", kernel_shape=[GRID, GRID])
    cnn.add("Relu", ["sum"], "hidden")
    cnn.add("Conv", ["hidden", "f2"], "scores", kernel_shape=[1, 1])
    cnn.add("Flatten", ["scores"], "logits")


def two_layers_behind_the_average(cnn: Cnn) -> None:
    cnn.stored |= {"f1": weights(9, CHANNELS), "f2": weights(9, CLASSES, seed=3)}
    cnn.add("GlobalAveragePool", ["maps"], "pooled")
    cnn.add("Flatten", ["pooled"], "row")
    cnn.add("Gemm", ["row", "f1"], "sum", transB=1)
    cnn.add("Relu", ["sum"], "hidden")
    cnn.add("MatMul", ["hidden", "f2"], "logits")


@pytest.mark.parametrize(
    ("head", "cells"),
    [
        (flatten_gemm, GRID**2),
        (two_layers, GRID**2),
        (two_layers_channels_last, GRID**2),
        (convolutions_all_the_way, GRID**2),
        (two_layers_behind_the_average, 1),
    ],
)
def test_evidence_behind_layers_is_the_mean_derivative(head: Any, cells: int) -> None:
    cnn = Cnn()
    head(cnn)
    model = cnn.model()
    found = append_evidence(model)
    assert (found.maps, found.is_linear) == ("maps", head is flatten_gemm)
    evidence, maps = run(model, [found.tensor, "maps"])
    expected = numeric(model, maps, step=1e-3) / cells
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(evidence, expected, atol=3e-3 * np.abs(expected).max())


def test_large_weights_are_stored_once_more_only_as_their_mean() -> None:
    cnn = Cnn()
    two_layers(cnn)
    model = cnn.model()
    before = len(model.SerializeToString())
    append_evidence(model)
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert [shape for name, shape in stored.items() if name not in cnn.stored and len(shape) == 2] == [(9, CHANNELS)]
    assert len(model.SerializeToString()) - before < 9 * CHANNELS * 4 + 1200


def test_a_background_class_leaves_the_word_to_the_next_best() -> None:
    cnn = Cnn()
    gap_gemm(cnn)
    cnn.stored["b"] -= run(cnn.model(), ["logits"])[0].mean(axis=0)
    cnn.stored["b"][1] = 100
    model = cnn.model()
    evidence, logits = run(model, [append_evidence(model, background_class=1).tensor, "logits"])
    assert (logits.argmax(axis=1) == 1).all()
    logits[:, 1] = -np.inf
    np.testing.assert_allclose(evidence, cnn.stored["fc"][logits.argmax(axis=1)])
    assert len(set(logits.argmax(axis=1))) > 1


def unknown_activation(cnn: Cnn) -> None:
    two_layers(cnn)
    cnn.nodes[-2] = helper.make_node("Softsign", ["sum"], ["hidden"])


def weights_of_the_image(cnn: Cnn) -> None:
    cnn.add("GlobalAveragePool", ["maps"], "pooled")
    cnn.add("Flatten", ["pooled"], "row")
    cnn.stored |= {"fc": weights(CHANNELS, CLASSES), "zero": np.float32(0)}
    cnn.add("ReduceSum", ["row"], "total", keepdims=0)
    cnn.add("Mul", ["total", "zero"], "nothing")
    cnn.add("Add", ["fc", "nothing"], "own")
    cnn.add("MatMul", ["row", "own"], "logits")


def scaled(cnn: Cnn) -> None:
    gap_gemm(cnn)
    cnn.nodes[-1].attribute.append(helper.make_attribute("alpha", 0.5))


def no_head(cnn: Cnn) -> None:
    cnn.stored |= {"flat": np.array([0, -1])}
    cnn.add("Reshape", ["image", "flat"], "logits")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (unknown_activation, r"leads through 'hidden' \(Softsign\)"),
        (weights_of_the_image, r"leads through 'logits' \(MatMul\)"),
        (scaled, r"leads through 'logits' \(Gemm\)"),
        (no_head, "nothing but 'image' leads to the logits"),
    ],
)
def test_what_cannot_be_gone_back_through_is_named_and_nothing_added(head: Any, reason: str) -> None:
    cnn = Cnn()
    head(cnn)
    model = cnn.model()
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(ModelError, match=reason):
        append_evidence(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [9, 10])
def test_products_of_opsets_that_ask_for_a_bias_have_one(opset: int) -> None:
    cnn = Cnn(opset=opset)
    two_layers(cnn)
    cnn.stored["f1"] = weights(9, 9)
    cnn.stored["first"] = weights(9, CHANNELS * GRID**2)
    cnn.stored["b0"] = weights(9)
    cnn.nodes.insert(3, helper.make_node("Gemm", ["row", "first", "b0"], ["narrow"], transB=1))
    cnn.nodes[4].input[0] = "narrow"
    model = cnn.model()
    found = append_evidence(model)
    maps, evidence = run(model, ["maps", found.tensor])
    np.testing.assert_allclose(evidence, numeric(cnn.model(), maps) / GRID**2, rtol=1e-2, atol=1e-3)


def test_an_old_opset_is_named() -> None:
    cnn = Cnn(opset=8)
    gap_gemm(cnn)
    with pytest.raises(ModelError, match="of ONNX opset 8, but at least 9"):
        append_evidence(cnn.model())


def torch_evidence(weights: dict[str, np.ndarray], pool5: np.ndarray) -> np.ndarray:
    """Grad-CAM's weights by PyTorch: the derivative of the best logit by pool5, averaged over the cells."""
    torch = pytest.importorskip("torch")
    maps = torch.from_numpy(pool5).requires_grad_()
    values = maps.flatten(1)
    for k, name in enumerate(("classifier.0", "classifier.3", "classifier.6")):
        values = torch.relu(values) if k else values
        layer = (torch.from_numpy(weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        values = torch.nn.functional.linear(values, *layer)
    values.max(dim=1).values.sum().backward()
    return maps.grad.mean(dim=(2, 3)).numpy()


def run_openvino(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed on this platform")
    core = openvino.Core()
    with signal_stack_kept():
        compiled = core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
    result = compiled(images)
    return {output.any_name: np.array(result[output]) for output in compiled.outputs}


@pytest.mark.parametrize("scale", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_vgg_agrees_with_torch(
    tiny: Any, tiny_weights: dict[str, np.ndarray], runtime: str, scale: tuple[int, int]
) -> None:
    tiny = tiny.at_size(64 * scale[0], 64 * scale[1])
    images = np.random.default_rng(2).integers(0, 256, (9, *tiny.size, 3), dtype=np.uint8)
    usual = run(build_vgg(tiny, tiny_weights), ["logits"], images)[0].mean(axis=0)
    # Without what all images share, they are of several classes.
    weights = {**tiny_weights, "classifier.6.bias": tiny_weights["classifier.6.bias"] - usual}
    model = build_vgg(tiny, weights)
    if runtime == "openvino":
        found = run_openvino(model, images)
        evidence, pool5, logits = (found[name] for name in ("evidence", "pool5", "logits"))
    else:
        evidence, pool5, logits = run(model, ["evidence", "pool5", "logits"], images)
    assert len(set(logits.argmax(axis=1))) > 1
    expected = torch_evidence(weights, pool5)
    np.testing.assert_allclose(evidence, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
