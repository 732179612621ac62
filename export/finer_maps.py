"""Which maps the count SVM reads beside the last ones, where nobody names any: finer ones, not too many of them.

Which of such maps are active together tells counts better than the last maps do, whose cells hold whole objects
(`pc_engine.export.cooccurrence`). C maps have C (C + 1) / 2 pairs, so that a thin layer serves best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from pc_engine.export.cooccurrence import OLDEST_OPSET, Cooccurrence
from pc_engine.export.map_layout import map_tensors
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.prepare import opset_of
from pc_engine.graph.pruning import part_behind
from pc_engine.manifest import NetworkInput

#: The tap that these maps become.
FINER_MAPS = "middle"

# Fewer are what one branch adds to others, or what attention squeezes them to; of more the pairs are too many.
_FEWEST, _MOST = 64, 256
# A grid with so many times the cells of the last one is of another stage of the network, not of a wider border;
# one with more than so many is of the first stages, which see edges.
_FINER, _FINEST = 2, 16
# How far apart two cells are that may well show two objects, as a part of the grid's side: 3 of 14.
_APART = 3 / 14


def find_finer_maps(
    model: onnx.ModelProto, pixels: NetworkInput, last: str, known: Mapping[str, graph_shapes.Value]
) -> str | None:
    """Return the deepest maps before ``last`` that are 64 to 256 on a finer grid, the coarsest grid that has any.

    Parameters
    ----------
    model
        A network whose maps are (N, C, H, W).
    pixels
        How large its images are: maps have their proportions.
    last
        The last maps.
    known
        Types and shapes of its tensors.

    Returns
    -------
    str | None
        The tensor; None where there is none, or the network's opset has no co-occurrence.
    """
    if opset_of(model) < OLDEST_OPSET:
        return None
    shape = _map_shape(known.get(last), pixels)
    if shape is None:
        return None
    cells = shape[1] * shape[2]
    found: dict[int, str] = {}
    are_maps = map_tensors(model.graph)
    for name in _deepest_first(model.graph, last):
        shape = _map_shape(known.get(name), pixels) if name in are_maps else None
        if shape is not None and _FEWEST <= shape[0] <= _MOST:
            own = shape[1] * shape[2]
            if _FINER * cells <= own <= _FINEST * cells:
                found.setdefault(own, name)
    return found[min(found)] if found else None


def usual_cooccurrences(tap: str, height: int, width: int) -> tuple[Cooccurrence, Cooccurrence]:
    """Return the two that count best on maps of so many cells: of the same cell, and of cells some way apart."""
    return Cooccurrence(tap, 0), Cooccurrence(tap, max(round(max(height, width) * _APART), 1))


def _deepest_first(graph: onnx.GraphProto, last: str) -> Iterator[str]:
    for k in sorted(part_behind(graph, [last]).nodes, reverse=True):
        yield from graph.node[k].output


def _map_shape(value: graph_shapes.Value | None, pixels: NetworkInput) -> tuple[int, int, int] | None:
    """Return channels, height and width of maps in float32 with the proportions of the images; None of all else."""
    if value is None or value.type != onnx.TensorProto.FLOAT or value.shape is None:
        return None
    if len(value.shape) != graph_shapes.MAP_RANK:
        return None
    channels, height, width = value.shape[1:]
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return None
    # Axes in another order have others.
    return (channels, height, width) if abs(height - width * pixels.height / pixels.width) < 1 else None
