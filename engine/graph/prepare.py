"""From an ONNX file to the graph that a backend compiles: uint8 pixels in, the wanted taps out, nothing else.

``open_graph`` reads such a file and makes that graph of it, ``cut_graph`` makes one of a network in memory.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from pc_engine.backbone import IMAGE
from pc_engine.errors import ManifestError, ModelError, system_reason
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.names import fresh_name, is_text, names_of, rename, stored_names, stored_tensors
from pc_engine.graph.operators import CHANNELS_FIRST
from pc_engine.graph.pruning import GraphPart, keep_part, part_behind
from pc_engine.manifest import Manifest, NetworkInput

#: Symbolic name of the batch axis of a prepared graph.
BATCH = "N"

#: Protobuf's limit for one message, in bytes.
LARGEST_FILE = 2**31 - 1
_OLDEST_OPSET = 7  # the first with NumPy broadcasting in Sub and Div
_INPUTS_WITHOUT_INITIALIZERS = 4  # the first IR version in which initializers need not be listed among the inputs
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def load_graph(path: Path, sha256: str | None = None) -> onnx.ModelProto:
    """Read a one-file ONNX network; with ``sha256``, only if it is of these very bytes.

    Raises
    ------
    ManifestError
        If the bytes are others.
    ModelError
        If the file is absent, truncated, not ONNX, or keeps tensors in other files. Those are refused rather than
        followed, because their paths may lead out of the model directory (CVE-2022-25882, CVE-2024-27318).
    """
    model = parse_graph(path, sha256)
    for tensor in filter(is_external, stored_tensors(model)):
        raise ModelError(
            f"{path} keeps the tensor {tensor.name!r:.80} in another file; only one-file ONNX is read: export the "
            f"model again."
        )
    return model


def parse_graph(path: Path, sha256: str | None = None) -> onnx.ModelProto:
    """Read an ONNX network; tensors that it keeps in other files stay there. Otherwise as `load_graph`."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{path} is larger than 2 GiB, which one-file ONNX cannot be; export a smaller network.")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({system_reason(error)}); export the model again.") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ManifestError(f"{path} changed while it was in use: run the command again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{path} is truncated or not an ONNX file; export or copy it again.") from None
    if not (model.ir_version and model.opset_import and model.graph.node and model.graph.output):
        raise ModelError(f"{path} holds no complete ONNX network; export or copy it again.")
    if not is_text(model):
        raise ModelError(f"{path} is damaged: names in it are not text; export or copy it again.")
    return model


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor lies in another file."""
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a network is written in, 0 if it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def input_tensor(model: onnx.ModelProto, name: str | None = None) -> onnx.ValueInfoProto:
    """Return the network's input: the one called ``name``, or the only one.

    Initializers that old files list among the inputs do not count.

    Raises
    ------
    ManifestError
        If there is no input ``name``, or ``name`` is None and there is more than one.
    """
    initializers = set(stored_names(model.graph))
    inputs: dict[str, onnx.ValueInfoProto] = {
        value.name: value for value in model.graph.input if value.name not in initializers
    }
    if name is None and len(inputs) == 1:
        return next(iter(inputs.values()))
    if name is None or name not in inputs:
        raise ManifestError(
            f"The network has the inputs {sorted(inputs)}, but {name!r} is not one of them; name one that is."
        )
    return inputs[name]


def open_graph(path: Path, manifest: Manifest, taps: Sequence[str]) -> onnx.ModelProto:
    """Read the network at ``path`` and return the part of it that leads from pixels to ``taps``.

    The result has one input, ``image``: uint8 [N, H, W, 3] RGB, N dynamic, H and W from the manifest; and one float32
    output per name in ``taps``, in that order, called by the tap's name. Nodes and weights that these outputs do not
    need are left out; those that stay are not copied. A float32 network gets the manifest's preprocessing prepended.

    Where the manifest has the file's sha256, what is read has to have it as well.

    Raises
    ------
    ManifestError
        If the bytes are others, if a tap, its tensor or the input is not in the graph, or if its type or shape
        disagrees with the manifest.
    ModelError
        If the file is none that ``load_graph`` reads, the wanted taps need a second input, the batch size is fixed
        inside the graph, or the opset is too old.
    """
    model = load_graph(path, manifest.files.get(path.name))
    del model.training_info[:]
    wanted = _wanted(manifest, taps)
    part = _part(model, wanted)
    keep_part(model.graph, part)
    return _adapt(model, part, wanted)


def cut_graph(model: onnx.ModelProto, name: str, pixels: NetworkInput, tensors: Mapping[str, str]) -> onnx.ModelProto:
    """Return what ``open_graph`` does, for a network in memory whose taps' shapes are not known yet.

    Parameters
    ----------
    model
        The network; not modified, and the weights that stay are copied.
    name
        What errors call it.
    pixels
        How it takes pixels.
    tensors
        Tap name to tensor.

    Raises
    ------
    ModelError, ManifestError
        As ``open_graph`` does.
    """
    wanted = _Wanted(name, pixels, dict(tensors), {})
    part = _part(model, wanted)
    return _adapt(_copy(model, part), part, wanted)


@dataclass(frozen=True)
class _Wanted:
    """What is asked of a network: ``name`` is the model's, ``tensors`` and ``shapes`` are by tap."""

    name: str
    pixels: NetworkInput
    tensors: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def _wanted(manifest: Manifest, taps: Sequence[str]) -> _Wanted:
    names = list(dict.fromkeys(taps))
    for name in names:
        if name not in manifest.taps:
            raise ManifestError(f"The model '{manifest.name}' has no tap '{name}', only {sorted(manifest.taps)}.")
    if not names:
        raise ManifestError(f"No tap of '{manifest.name}' was asked for; it has {sorted(manifest.taps)}.")
    tensors = {name: manifest.taps[name].tensor for name in names}
    return _Wanted(manifest.name, manifest.input, tensors, {name: manifest.taps[name].shape for name in names})


def _part(model: onnx.ModelProto, wanted: _Wanted) -> GraphPart:
    _check_tensors(model.graph, wanted)
    return part_behind(model.graph, wanted.tensors.values())


def _check_tensors(graph: onnx.GraphProto, wanted: _Wanted) -> None:
    produced = {name for node in graph.node for name in node.output if name}
    produced.update(value.name for value in graph.input)
    for tap, tensor in wanted.tensors.items():
        if tap == IMAGE:
            raise ManifestError(f"A tap of '{wanted.name}' is called '{IMAGE}', the name of the input; rename it.")
        if tensor not in produced:
            raise ManifestError(
                f"The tap '{tap}' of '{wanted.name}' is the tensor '{tensor}', which its network does not have"
                f"{closest_names(tensor, produced)}."
            )


def _copy(model: onnx.ModelProto, part: GraphPart) -> onnx.ModelProto:
    copy = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = model.graph.name
    copy.graph.input.extend(model.graph.input)
    copy.graph.node.extend(node for k, node in enumerate(model.graph.node) if k in part.nodes)
    copy.graph.initializer.extend(t for t in model.graph.initializer if t.name in part.tensors)
    copy.graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in part.tensors)
    return copy


def closest_names(name: str, known: Iterable[str]) -> str:
    """Return ``"; the closest names are …"`` for an error about an unknown ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4)
    return f"; the closest names are {', '.join(repr(match) for match in matches)}" if matches else ""


def _adapt(model: onnx.ModelProto, part: GraphPart, wanted: _Wanted) -> onnx.ModelProto:
    """Give the pruned ``model``, in place, its uint8 input and its outputs named by tap."""
    opset = opset_of(model)
    if opset < _OLDEST_OPSET:
        raise ModelError(
            f"The network of '{wanted.name}' is of ONNX opset {opset}, at least {_OLDEST_OPSET} is needed; "
            f"convert it with onnx.version_converter."
        )
    graph = model.graph
    pixels = _keep_only_input(model, part, wanted)
    del graph.value_info[:], graph.output[:], graph.quantization_annotation[:]
    model.ir_version = max(model.ir_version, _INPUTS_WITHOUT_INITIALIZERS)
    _free_batch(model, pixels, wanted.pixels)
    known = graph_shapes.infer(model)
    for tap, tensor in wanted.tensors.items():
        _check_tap(wanted, tap, known.get(tensor, graph_shapes.UNKNOWN))

    direct = {tensor: tap for tap, tensor in reversed(wanted.tensors.items())}  # the first tap of a tensor renames it
    converted = {tensor for tensor in direct if known.get(tensor, graph_shapes.UNKNOWN).type != TensorProto.FLOAT}
    names = {tensor: tap for tensor, tap in direct.items() if tensor not in converted}
    if wanted.pixels.dtype == "uint8":
        names[pixels.name] = IMAGE
    present, final = set(names_of(graph)), {IMAGE, *wanted.tensors}
    taken = present | final
    names |= {name: fresh_name(name, taken) for name in sorted(present & final) if name not in names}
    element_type = pixels.type.tensor_type.elem_type
    first = names.get(pixels.name, pixels.name)
    rename(graph, names)

    graph.input[0].CopyFrom(
        helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [BATCH, wanted.pixels.height, wanted.pixels.width, 3])
    )
    for tap, tensor in wanted.tensors.items():
        source = names.get(tensor, tensor)
        if tensor in converted:
            graph.node.append(helper.make_node("Cast", [source], [tap], to=TensorProto.FLOAT))
        elif source != tap:
            graph.node.append(helper.make_node("Identity", [source], [tap]))
        shape = wanted.shapes.get(tap) or (known.get(tensor, graph_shapes.UNKNOWN).shape or ())[1:]
        graph.output.append(helper.make_tensor_value_info(tap, TensorProto.FLOAT, [BATCH, *shape] if shape else None))
    if wanted.pixels.dtype == "float32":
        for k, node in enumerate(_preprocessing(graph, wanted.pixels, first, element_type)):
            graph.node.insert(k, node)
    return model


def _keep_only_input(model: onnx.ModelProto, part: GraphPart, wanted: _Wanted) -> onnx.ValueInfoProto:
    """Drop every input but the pixels; return a copy of theirs after checking its type and size."""
    declared = wanted.pixels
    pixels = onnx.ValueInfoProto()
    pixels.CopyFrom(input_tensor(model, declared.tensor))
    initializers = set(stored_names(model.graph))
    for value in model.graph.input:
        if value.name in part.tensors and value.name not in initializers and value.name != declared.tensor:
            raise ModelError(
                f"The taps {sorted(wanted.tensors)} of '{wanted.name}' need a second input, '{value.name}'; only "
                f"networks with one image input can be run, so store its value in the file, as an initializer of that "
                f"name."
            )
    tensor_type = pixels.type.tensor_type
    allowed = (TensorProto.UINT8,) if declared.dtype == "uint8" else (TensorProto.FLOAT, TensorProto.FLOAT16)
    if tensor_type.elem_type not in allowed:
        raise ManifestError(
            f"The manifest of '{wanted.name}' declares a {declared.dtype} input, but '{declared.tensor}' is of type "
            f"{_type_name(tensor_type.elem_type)}; correct input.dtype."
        )
    if declared.dtype == "uint8" and (declared.layout, declared.channels) != ("NHWC", "RGB"):
        raise ManifestError(
            f"The network of '{wanted.name}' takes uint8 {declared.layout} {declared.channels}; a uint8 input must be "
            f"NHWC RGB, so convert the network or give it a float32 input."
        )
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor_type.shape.dim]
    # Some exporters write -1 where a size is open.
    expected = _input_dims(declared)
    if tensor_type.HasField("shape") and (
        len(sizes) != 4 or any(size not in (None, 0, -1, want) for size, want in zip(sizes[1:], expected, strict=True))
    ):
        raise ManifestError(
            f"The manifest of '{wanted.name}' declares an input of {declared.layout} size {expected}, but "
            f"'{declared.tensor}' has shape {tuple(sizes)}; correct the input's height, width or layout."
        )
    del model.graph.input[:]
    model.graph.input.append(pixels)
    return pixels


def _input_dims(declared: NetworkInput) -> tuple[int, int, int]:
    height, width = declared.height, declared.width
    return (height, width, 3) if declared.layout == "NHWC" else (3, height, width)


def _free_batch(model: onnx.ModelProto, pixels: onnx.ValueInfoProto, declared: NetworkInput) -> None:
    """Make the batch axis symbolic; where it was a number, free the Reshape nodes that repeat that number as well."""
    dims = pixels.type.tensor_type.shape.dim
    batch = dims[0].dim_value if len(dims) == 4 and dims[0].HasField("dim_value") else 0
    element_type = pixels.type.tensor_type.elem_type

    def declare(first: int | str) -> None:
        shape = [first, *_input_dims(declared)]
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info(pixels.name, element_type, shape))

    if batch > 0:
        declare(batch)
        graph_shapes.free_reshapes(model, batch)
    declare(BATCH)


def _check_tap(wanted: _Wanted, tap: str, value: graph_shapes.Value) -> None:
    tensor = wanted.tensors[tap]
    if value.type is not None and value.type not in _FLOATS:
        raise ManifestError(
            f"The tap '{tap}' of '{wanted.name}' is the tensor '{tensor}' of type {_type_name(value.type)}; "
            f"name a floating-point one (in a quantised network, the output of its DequantizeLinear)."
        )
    if value.shape is None:
        return
    found, declared = value.shape[1:], wanted.shapes.get(tap, value.shape[1:])
    if len(found) != len(declared) or any(
        isinstance(size, int) and size != want for size, want in zip(found, declared, strict=True)
    ):
        raise ManifestError(
            f"The tap '{tap}' of '{wanted.name}' has shape {declared} in its manifest, but the tensor '{tensor}' has "
            f"{found} at {wanted.pixels.height}x{wanted.pixels.width}; correct the manifest."
        )
    if isinstance(value.shape[0], int):
        raise ModelError(
            f"The network of '{wanted.name}' fixes the batch size at {value.shape[0]} on the way to the tensor "
            f"'{tensor}'; export it again with a dynamic batch axis."
        )


def _preprocessing(
    graph: onnx.GraphProto, declared: NetworkInput, result: str, element_type: int
) -> list[onnx.NodeProto]:
    """Return nodes from ``image`` to ``result``: (pixel - mean) / std in the declared layout and channel order.

    The cast comes first: TensorRT allows nothing else on uint8.
    """
    taken = set(names_of(graph))
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]

    def constant(name: str, values: Sequence[float], data_type: int) -> str:
        name = fresh_name(name, taken)
        graph.initializer.append(helper.make_tensor(name, data_type, [len(values)], values))
        return name

    if any(declared.mean):
        steps.append(("Sub", [constant("pixel_mean", declared.mean, TensorProto.FLOAT)], {}))
    if any(value != 1 for value in declared.std):
        steps.append(("Div", [constant("pixel_std", declared.std, TensorProto.FLOAT)], {}))
    if declared.channels == "BGR":
        steps.append(("Gather", [constant("channel_order", (2, 1, 0), TensorProto.INT64)], {"axis": 3}))
    if declared.layout == "NCHW":
        steps.append(("Transpose", [], {"perm": CHANNELS_FIRST}))
    if element_type != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": element_type}))
    nodes, current = [], IMAGE
    for k, (operator, constants, attributes) in enumerate(steps):
        output = result if k == len(steps) - 1 else fresh_name(f"pixels_{operator.lower()}", taken)
        nodes.append(helper.make_node(operator, [current, *constants], [output], **attributes))
        current = output
    return nodes


def _type_name(element_type: int) -> str:
    return str(TensorProto.DataType.Name(element_type)).lower()
