"""Tokens of a transformer as maps: (N, tokens, values) put back on the grid of patches that they were made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import ManifestError
from pc_engine.export.run_shapes import known_shapes
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.names import fresh_name, names_of, rename
from pc_engine.manifest import NetworkInput
from pc_engine.say import Say

_RANK = 3  # images, tokens, values
_BY_VALUE = (0, 2, 1)
# A token of the class may come first, which is of no place.
_LEADING = (0, 1)


@dataclass(frozen=True)
class TokenGrid:
    """The cells that tokens are of, all but the first ``leading`` ones."""

    leading: int
    rows: int
    columns: int


def token_grid(tokens: graph_shapes.Value, pixels: NetworkInput) -> TokenGrid | None:
    """Return the grid with the proportions of the images that a tensor's tokens fill; None if there is none."""
    axes = tokens.shape or ()
    if len(axes) != _RANK or isinstance(axes[0], int) or not isinstance(axes[1], int) or not isinstance(axes[2], int):
        return None
    for leading in _LEADING:
        cells = axes[1] - leading
        rows = round(math.sqrt(max(cells, 0) * pixels.height / pixels.width))
        if rows > 0 and cells > 1 and cells % rows == 0:
            columns = cells // rows
            if abs(rows - columns * pixels.height / pixels.width) < 1:
                return TokenGrid(leading, rows, columns)
    return None


def tokens_as_maps(model: onnx.ModelProto, taps: Iterable[str], pixels: NetworkInput, report: Say) -> None:
    """Make taps that are tokens maps of as many channels as a token has values, in place.

    Parameters
    ----------
    model
        A prepared network, its outputs called by their taps.
    taps
        Those that have to be maps; what else they are is for others to say.
    pixels
        How large its images are.
    report
        Called with a sentence for each tap that is changed.

    Raises
    ------
    ManifestError
        If a tap's tokens fill no grid.
    """
    wanted = set(taps)
    outputs = [value for value in model.graph.output if value.name in wanted]
    known = graph_shapes.infer(model)
    if any(known.get(value.name, graph_shapes.UNKNOWN).shape is None for value in outputs):
        known = known_shapes(model, pixels)
    for output in outputs:
        tap, value = output.name, known.get(output.name, graph_shapes.UNKNOWN)
        if len(value.shape or ()) != _RANK:
            continue
        grid = token_grid(value, pixels)
        _, n, values = value.shape or ()
        if grid is None:
            raise ManifestError(
                f"The tap '{tap}' names {n} x {values} values an image, which are neither maps nor tokens, with or "
                f"without one of the class, that fill a grid of the proportions of {pixels.height} x {pixels.width} "
                f"pixels: name others with --tap {tap}=NAME."
            )
        tokens = fresh_name(f"{tap}_tokens", set(names_of(model.graph)))
        rename(model.graph, {tap: tokens})
        model.graph.node.extend(_on_grid(model.graph, tokens, tap, grid))
        output.CopyFrom(helper.make_tensor_value_info(tap, TensorProto.FLOAT, None))
        left_out = ", the first one left out" if grid.leading else ""
        report(f"The tap '{tap}' names {n} tokens{left_out}: they are read as maps of {grid.rows} x {grid.columns}.")


def residual_tokens(
    graph: onnx.GraphProto, known: Mapping[str, graph_shapes.Value], pixels: NetworkInput, depending: Iterable[str]
) -> Iterator[str]:
    """Yield the sums of a transformer's blocks whose tokens fill a grid, the first one first.

    They keep how strong a value is at each place, which a normalisation after them takes away.

    Parameters
    ----------
    graph
        The network.
    known
        Types and shapes of its tensors.
    pixels
        How large its images are.
    depending
        Tensors that an image decides.
    """
    decided = set(depending)
    for node in graph.node:
        is_sum = node.op_type == "Add" and decided.issuperset(node.input)
        if is_sum and token_grid(known.get(node.output[0], graph_shapes.UNKNOWN), pixels) is not None:
            yield node.output[0]


def _on_grid(graph: onnx.GraphProto, tokens: str, tap: str, grid: TokenGrid) -> Iterator[onnx.NodeProto]:
    """Yield the nodes from tokens (N, tokens, values) to maps (N, values, rows, columns)."""
    taken = set(names_of(graph))

    def stored(name: str, values: Iterable[int]) -> str:
        name = fresh_name(f"{tap}/{name}", taken)
        graph.initializer.append(numpy_helper.from_array(np.array([*values], np.int64), name))
        return name

    cells = grid.rows * grid.columns
    if grid.leading:
        placed = fresh_name(f"{tap}/placed", taken)
        indices = stored("places", range(grid.leading, grid.leading + cells))
        yield helper.make_node("Gather", [tokens, indices], [placed], axis=1)
        tokens = placed
    turned = fresh_name(f"{tap}/by_value", taken)
    yield helper.make_node("Transpose", [tokens], [turned], perm=_BY_VALUE)
    yield helper.make_node("Reshape", [turned, stored("grid", (0, 0, grid.rows, grid.columns))], [tap])
