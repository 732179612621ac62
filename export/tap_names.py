"""Which tensors of a network play the parts of taps, as their names say, and which might where these do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from pc_engine.errors import UsageError
from pc_engine.export.map_layout import map_tensors
from pc_engine.export.run_shapes import known_shapes
from pc_engine.export.token_maps import residual_tokens
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.names import reads
from pc_engine.graph.prepare import closest_names
from pc_engine.graph.pruning import part_behind
from pc_engine.manifest import EVIDENCE, MAPS_OF_HEAD, NetworkInput

#: Taps that are grids of features: [C, H, W].
GRID_TAPS = ("conv_last", "conv_prev")

# Tensors of a kind that an error names.
_SHOWN = 4


def find_taps(
    model: onnx.ModelProto, path: Path, taps: Mapping[str, str], count_features: Sequence[str]
) -> dict[str, str]:
    """Return the tensor of each tap: the one of that name, or the first output of the node that is called so.

    ``logits`` that are not named are what the network gives, if that is one tensor or one of them is called so.

    Parameters
    ----------
    model, path
        The network, and the file that it was read from.
    taps
        Tap name to the name of a tensor or node.
    count_features
        Taps that the count SVM is to read.

    Raises
    ------
    UsageError
        If a tap is needed and not named, or there is no such tensor; the message names some that there are. If the
        name of a tap is not one word, or a count feature is named twice.
    """
    for tap in taps:
        if tap.split() != [tap]:  # settings list taps by their names with spaces between
            raise UsageError(f"The tap name '{tap}' is not one word: write it as middle=NAME.")
    if "logits" not in taps:
        outputs = [value.name for value in model.graph.output]
        if len(outputs) > 1 and "logits" not in outputs:
            raise unnamed_tap(model, "logits")
        taps = {**taps, "logits": "logits" if "logits" in outputs else outputs[0]}
    # These are added where the head allows.
    later = (EVIDENCE, MAPS_OF_HEAD, *(() if "conv_last" in taps else GRID_TAPS))
    for place, feature in enumerate(count_features):
        if feature in count_features[:place]:
            raise UsageError(f"The counter's features name '{feature}' twice: name it once.")
        if feature not in taps and feature not in later:
            raise UsageError(
                f"The counter's feature '{feature}' is not a tap: add --tap {feature}=NAME; "
                f"{_candidates(model, feature)}."
            )
    return {tap: _find_tensor(model, tap, wanted, path) for tap, wanted in taps.items()}


def unnamed_tap(model: onnx.ModelProto, tap: str, pixels: NetworkInput | None = None) -> UsageError:
    """Return the error about a tap that is needed and not named; it names tensors that it might be.

    Of a prepared network, whose ``pixels`` are given, it knows all shapes.
    """
    candidates = _candidates(model, tap, pixels)
    return UsageError(f"No tensor was named for the tap '{tap}': add --tap {tap}=NAME; {candidates}.")


def maps_before(model: onnx.ModelProto, maps: str, known: Mapping[str, graph_shapes.Value]) -> str | None:
    """Return the maps that the last convolution on the way to ``maps`` reads, None where it reads the image itself.

    ``known`` has the types and shapes of the network's tensors.
    """
    behind = part_behind(model.graph, [maps])
    for k in sorted(behind.nodes, reverse=True):
        node = model.graph.node[k]
        if node.op_type == "Conv" and _has_cells(known.get(node.output[0], graph_shapes.UNKNOWN).shape):
            before = part_behind(model.graph, [node.input[0]])
            return node.input[0] if any(model.graph.node[n].op_type == "Conv" for n in before.nodes) else None
    return None


def _has_cells(shape: Sequence[int | str | None] | None) -> bool:
    """Whether a shape is that of maps of more than one cell."""
    return shape is not None and len(shape) == graph_shapes.MAP_RANK and tuple(shape[2:]) != (1, 1)


def _find_tensor(model: onnx.ModelProto, tap: str, wanted: str, path: Path) -> str:
    tensors = {output for node in model.graph.node for output in node.output if output}
    if wanted in tensors:
        return wanted
    nodes: dict[str, str] = {node.name: node.output[0] for node in model.graph.node if node.name and node.output}
    if wanted in nodes:
        return nodes[wanted]
    closest = closest_names(wanted, tensors | set(nodes))
    raise UsageError(
        f"{path} has no tensor and no node '{wanted}' for the tap '{tap}'{closest}; {_candidates(model, tap)}."
    )


def _candidates(model: onnx.ModelProto, tap: str, pixels: NetworkInput | None = None) -> str:
    """Return ``"the last … of the network are …"``: feature maps and tokens or vectors, as the tap needs, or both."""
    known = graph_shapes.infer(model) if pixels is None else known_shapes(model, pixels)
    outputs = list(depending_on_input(model.graph))[::-1]
    shapes = {name: known[name].shape for name in outputs if name in known}
    are_maps = map_tensors(model.graph)
    maps = [
        _with_shape(name, shape) for name, shape in shapes.items() if shape and name in are_maps and _has_cells(shape)
    ]
    vectors = [_with_shape(name, shape) for name, shape in shapes.items() if shape and len(shape) == 2]
    kinds = {"feature maps": maps if tap != "logits" else [], "vectors": vectors if tap not in GRID_TAPS else []}
    if pixels is not None and tap in GRID_TAPS:
        tokens = [*residual_tokens(model.graph, known, pixels, outputs)][::-1]
        kinds["tokens on a grid"] = [_with_shape(name, shape) for name in tokens if (shape := shapes[name])]
    # Where shapes are lost behind an unknown operator, those before it are far from the end.
    if not any(kinds.values()) or None in (shapes.get(name) for name in outputs):
        kinds = {"feature maps of known shape": kinds["feature maps"], "tensors": outputs}
    return " and ".join(
        f"the last {kind} of the network are {', '.join(names[:_SHOWN])}" for kind, names in kinds.items() if names
    )


def depending_on_input(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield, in their order, the tensors that an image decides, which weights on their way to a convolution are not."""
    stored = {tensor.name for tensor in graph.initializer}
    depending = {value.name for value in graph.input} - stored
    for node in graph.node:
        if depending.intersection(reads(node)):
            outputs = list(filter(None, node.output))
            depending.update(outputs)
            yield from outputs


def _with_shape(name: str, shape: Sequence[int | str | None]) -> str:
    return f"{name} ({' x '.join('?' if size is None else str(size) for size in shape[1:])})"
