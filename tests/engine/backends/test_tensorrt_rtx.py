"""Engines that the real TensorRT-RTX builds, which it can do without a GPU; running them takes one."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from pc_engine.backbone import CompileRequest
from pc_engine.backends import tensorrt_build
from pc_engine.backends.tensorrt_build import PRECISIONS, Target, build_engine, precisions_of, typed_graph
from pc_engine.backends.tensorrt_library import Library, Line, load_library
from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import BackendError
from pc_engine.export import Cooccurrence, Preprocessing, export_efficientnet_lite, export_vgg
from pc_engine.export.quantise import quantise_network
from pc_engine.export.vgg_graph import ARCHITECTURES
from pc_engine.graph.prepare import open_graph
from pc_engine.graph.signed import make_signed
from pc_engine.hardware.devices import driver_found
from pc_engine.manifest import QUANTISED_FILES
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import probe_images

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")

BATCH = 8
_OLDEST = {"fp8": (8, 9)}  # the card to name where not all that the library builds for will do


@pytest.fixture
def library(monkeypatch) -> Library:
    """One that keeps all that it writes: information, too, has the layers of a built engine."""
    library = load_library("tensorrt_rtx")
    monkeypatch.setattr(library.log, "add", lambda severity, text: library.log.lines.append(Line(severity, text)))
    return library


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, CompileRequest]:
    """Requests by model: lego as it ships, and with all their maps on small pictures VGG and EfficientNet-Lite."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "lego").symlink_to(EMBEDDED_DIRECTORY)
    for name in ("vgg16", "vgg19"):
        spec = replace(ARCHITECTURES[name], trained_size=64, fc_width=128)
        cooccurrences = [Cooccurrence("conv_last", distance) for distance in (0, 1)]
        export_vgg(spec, "random:0", folder / name, cooccurrences=cooccurrences)
    export_efficientnet_lite(
        "efficientnet_lite0", "random:0", folder / "efficientnet_lite0", preprocessing=Preprocessing(size=(64, 64))
    )
    requests = {}
    for name in ("lego", "vgg16", "vgg19", "efficientnet_lite0"):
        model = load_model(folder / name)
        requests[name] = network_request(model, tuple(model.manifest.taps), batch_size=BATCH)
    return requests


@pytest.fixture(scope="module")
def quantised(models, tmp_path_factory) -> dict[tuple[str, str], CompileRequest]:
    """Requests at int8 and fp8, by model and precision."""
    requests = {}
    for name, precision in itertools.product(("lego", "vgg16"), QUANTISED_FILES):
        request = models[name]
        path = tmp_path_factory.mktemp(name) / QUANTISED_FILES[precision]
        pixels = request.manifest.input
        images = probe_images(pixels.height, pixels.width, 2)
        network = quantise_network(request.network, request.manifest, images, path, precision=precision, threads=1)
        manifest = replace(request.manifest, input=network.input, taps=network.taps)
        requests[name, precision] = replace(request, network=path, manifest=manifest, precision=precision)
    return requests


def tensors_of(library: Library) -> tuple[dict[str, tuple[str, tuple[int, ...]]], ...]:
    """What the engine built last takes and gives, name to type and shape, as its builder reports its layers."""
    report = next(line.text for line in library.log.lines if line.text.startswith("Engine Layer Information"))
    found = []
    for side in re.fullmatch(r"(?s)Engine Layer Information:\nLayer.*?, (\w+ \(.*?) -> (.*?)\s*", report).groups():
        parts = re.findall(r"(\w+) \((\w+)\[([\d,]+)\]\)", side)
        found.append({name: (kind, tuple(map(int, shape.split(",")))) for name, kind, shape in parts})
    return tuple(found)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *(("lego", precision) for precision in PRECISIONS),
        *(("vgg16", precision) for precision in PRECISIONS),
        *(("vgg19", precision) for precision in ("fp32", "fp16")),
        *(("efficientnet_lite0", precision) for precision in ("fp32", "fp16")),
    ],
)
def test_an_engine_takes_uint8_pixels_and_gives_float32_taps(library, models, quantised, name, precision):
    request = quantised.get((name, precision), replace(models[name], precision=precision))
    graph = typed_graph(request).SerializeToString()
    engine = build_engine(library, graph, Target(BATCH, _OLDEST.get(precision)))
    pixels = request.manifest.input
    taken, given = tensors_of(library)
    assert taken == {"image": ("UInt8", (BATCH, pixels.height, pixels.width, 3))}
    assert given == {tap: ("Float", (BATCH, *request.manifest.taps[tap].shape)) for tap in request.taps}
    # Weights are the bulk of an engine: of 4, 2 and 1 bytes, but those that are kept in float32 at fp16.
    n_weights = sum(np.prod(shape) for shape in _weight_shapes(models[name]))
    size = {"fp32": 4, "fp16": 2, "int8": 1, "fp8": 1}[precision] * n_weights
    if precision == "fp16":
        size += 2 * sum(np.prod(shape) for shape in _weight_shapes(request, TensorProto.FLOAT))
    assert size * 0.95 < len(engine) < size * 1.3 + 1.5e6
    assert not [line for line in library.log.lines if line.severity <= 2 and "UINT8" in line.text]


def _weight_shapes(request, data_type=None):
    """The shapes of a network's weights, or at its precision of those of one type."""
    model = typed_graph(replace(request, precision="fp32") if data_type is None else request)
    stored = model.graph.initializer
    return [each.dims for each in stored if len(each.dims) > 1 and data_type in (None, each.data_type)]


def test_what_is_multiplied_in_fp8_gives_float16(quantised):
    model = typed_graph(quantised["vgg16", "fp8"])
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in shape_inference.infer_shapes(model).graph.value_info
    }
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm") and "evidence" not in node.name]
    assert {kinds[node.output[0]] for node in layers} == {TensorProto.FLOAT16}


@pytest.mark.parametrize("batch", [1, 32])
def test_the_batch_size_is_the_one_that_the_engine_takes(library, models, batch, monkeypatch):
    seen = []
    checked = tensorrt_build._fix_batch

    def watch(library, builder, network, config, batch_size):
        checked(library, builder, network, config, batch_size)
        tensors = [network.get_input(0), *(network.get_output(k) for k in range(network.num_outputs))]
        seen.extend(tensor.shape[0] for tensor in tensors)
        seen.append(config.num_optimization_profiles)

    monkeypatch.setattr(tensorrt_build, "_fix_batch", watch)
    build_engine(library, typed_graph(models["lego"]).SerializeToString(), Target(batch))
    taken, given = tensors_of(library)
    assert taken["image"][1][0] == batch
    assert {shape[0] for _, shape in given.values()} == {batch}
    # Of every tensor in the network, not of the profile's alone, which would leave it -1 and to be found at run time.
    assert seen == [batch] * (1 + len(given)) + [1]


def test_only_the_taps_asked_for_are_outputs(library, models):
    request = replace(models["lego"], taps=("conv_last", "logits"))
    build_engine(library, typed_graph(request).SerializeToString(), Target(4))
    assert list(tensors_of(library)[1]) == ["conv_last", "logits"]


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (12, 0), (9, 0)])
def test_engines_are_built_for_the_card_named(library, models, capability):
    graph = typed_graph(replace(models["lego"], precision="fp16")).SerializeToString()
    assert build_engine(library, graph, Target(4, capability=capability))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (12, 0)])
def test_it_builds_at_each_precision_that_it_is_offered(library, models, quantised, capability):
    for precision in precisions_of(library, capability):
        request = quantised.get(("lego", precision), replace(models["lego"], precision=precision))
        assert build_engine(library, typed_graph(request).SerializeToString(), Target(BATCH, capability=capability))


def test_the_card_at_hand_is_one_that_it_looks_for(library, models):
    """Else an engine for the machine would be built as without a GPU, for kernels that suit many cards."""
    if driver_found():
        pytest.skip("this machine has a GPU")
    graph = typed_graph(models["lego"]).SerializeToString()
    with pytest.raises(BackendError, match=r"TensorRT-RTX failed while (starting|naming the card|building)"):
        build_engine(library, graph, Target(4, current=True))


def test_the_card_named_is_the_one_built_for(library, models):
    """Turing multiplies no float32 matrices in TensorRT-RTX: so it says, if that is the card."""
    graph = typed_graph(models["lego"]).SerializeToString()
    with pytest.raises(BackendError, match=r"Turing \(SM75\): FP32 GEMM is not supported"):
        build_engine(library, graph, Target(4, capability=(7, 5)))
    # What a build that failed leaves behind goes into the next engine, whose size other tests measure.
    assert build_engine(library, graph, Target(4))


def test_a_graph_that_it_cannot_read_is_one_sentence(library):
    graph = helper.make_graph(
        [helper.make_node("Unheard", ["image"], ["tap"], name="strange", domain="of")],
        "made",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("tap", TensorProto.FLOAT, [1])],
    )
    with pytest.raises(BackendError, match=r"cannot read the network: .*\(at Unheard 'strange'\)") as caught:
        build_engine(library, helper.make_model(graph).SerializeToString(), Target(4))
    assert "\n" not in str(caught.value)


def test_what_is_no_graph_is_one_sentence(library):
    """The parser reads it without complaint, as a network of nothing."""
    with pytest.raises(BackendError, match=r"found the inputs \[\] where there should be one, 'image'"):
        build_engine(library, b"damaged", Target(4))


def test_a_batch_size_that_cannot_be_is_one_sentence(library, models):
    with pytest.raises(BackendError) as caught:
        build_engine(library, typed_graph(models["lego"]).SerializeToString(), Target(-3))
    assert "\n" not in str(caught.value)


def test_unsigned_levels_would_be_misread_without_a_word_but_a_warning(library, quantised):
    """Why `make_signed` is there: TensorRT takes a uint8 zero point for an int8 one, and goes on."""
    request = quantised["lego", "int8"]
    graph = open_graph(request.network, request.manifest, request.taps).SerializeToString()
    assert build_engine(library, graph, Target(4))
    assert any("Defaulting to INT8" in line.text for line in library.log.lines if line.severity == 2)


def test_levels_in_fp8_are_built_as_they_are(library):
    """What other tools quantise to fp8: weights and activations as levels with a scale, and no zero point."""
    weights = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)
    e4m3 = {"output_dtype": TensorProto.FLOAT8E4M3FN}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Concat", ["planes"] * 5 + ["one"], ["wide"], axis=1),
        helper.make_node("QuantizeLinear", ["wide", "s"], ["q"], **e4m3),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("QuantizeLinear", ["w", "s"], ["wq"], **e4m3),
        helper.make_node("DequantizeLinear", ["wq", "s"], ["wd"]),
        helper.make_node("Slice", ["planes", "zero", "first", "axis"], ["one"]),
        helper.make_node("Conv", ["d", "wd"], ["tap"], pads=[1, 1, 1, 1]),
    ]
    nodes.insert(2, nodes.pop(7))
    stored = {"s": np.float32(0.5), "w": weights}
    stored |= {"zero": np.array([0]), "first": np.array([1]), "axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("tap", TensorProto.FLOAT, ["N", 16, 32, 32])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    before = model.SerializeToString(deterministic=True)
    make_signed(model)
    assert model.SerializeToString(deterministic=True) == before
    assert build_engine(library, before, Target(4, capability=(8, 9)))
    taken, given = tensors_of(library)
    assert (taken["image"][0], given["tap"]) == ("UInt8", ("Float", (4, 16, 32, 32)))


def test_loading_an_engine_without_a_driver_is_one_sentence(library, models):
    engine = build_engine(library, typed_graph(models["lego"]).SerializeToString(), Target(4))
    library.log.forget()
    runtime = library.trt.Runtime(library.logger)
    loaded = runtime.deserialize_cuda_engine(memoryview(engine))
    if loaded is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"TensorRT-RTX failed while loading the engine: .*cudaError 35") as caught:
        library.check(loaded, "loading the engine")
    assert "\n" not in str(caught.value)


def test_what_runs_an_engine_is_called_by_the_names_it_has(library):
    trt = library.trt
    called = {
        trt.ICudaEngine: ("create_runtime_config", "create_execution_context", "num_io_tensors", "get_tensor_dtype"),
        trt.IRuntimeConfig: (
            *("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"),
            *("create_runtime_cache", "set_runtime_cache"),
        ),
        trt.IRuntimeCache: ("serialize", "deserialize"),
        trt.IExecutionContext: ("set_input_shape", "set_tensor_address", "execute_async_v3"),
        trt.CudaGraphStrategy: ("WHOLE_GRAPH_CAPTURE",),
        trt.DynamicShapesKernelSpecializationStrategy: ("EAGER",),
    }
    assert [(kind, name) for kind, names in called.items() for name in names if not hasattr(kind, name)] == []
