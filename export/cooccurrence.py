"""Which feature maps are active together, and how far apart: second-order features for the count SVM.

A map says where something is, and its mean how much of it there is. Neither says whether two cells that show the same
belong to one object or to two, which is what counting is about: that is in the products of pairs of cells. For cells p
and q at a distance of r cells in a row or a column, the mean of ``x_i(p) x_j(q) + x_i(q) x_j(p)`` over all such pairs
is one value for each pair of maps i and j, wherever in the picture the objects are; r = 0 pairs each cell with itself,
once. Products at 0 are
second-order pooling (Carreira et al. 2012, doi 10.1007/978-3-642-33786-4_32), those at a distance are the spatial
co-occurrence of Shih et al. 2017 (doi 10.1109/CVPR.2017.772). Square roots, signs kept, make them comparable (Lin et
al. 2015, doi 10.1109/ICCV.2015.170).

The values are the same for an image and its mirror image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from pc_engine.errors import ModelError, UsageError
from pc_engine.export.node_writer import NodeWriter
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.names import names_of
from pc_engine.graph.prepare import BATCH, opset_of

#: The first with Sign.
OLDEST_OPSET = 9


@dataclass(frozen=True)
class Cooccurrence:
    """What to compute: of the maps of a tap, at a distance in cells."""

    tap: str
    distance: int = 0

    @property
    def name(self) -> str:
        """The tap that it makes."""
        return f"{self.tap}_cooccurrence_{self.distance}"


def append_cooccurrence(
    model: onnx.ModelProto, wanted: Cooccurrence, known: Mapping[str, graph_shapes.Value] | None = None
) -> int:
    """Append the nodes that compute it, in place, with an output called by its name.

    Parameters
    ----------
    model
        A network with the maps (N, C, H, W) float32 under the tap's name.
    wanted
        The tap and the distance.
    known
        Types and shapes of the network's tensors; None to infer them here.

    Returns
    -------
    int
        Its size D = C (C + 1) / 2: the output is (N, D) float32, maps i <= j in the order of rows.

    Raises
    ------
    UsageError
        If there are no such maps, no cells so far apart, or the output exists.
    ModelError
        If the network's opset is too old.
    """
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"Co-occurrence needs ONNX opset {OLDEST_OPSET}, but the network has {opset}: convert it with "
            "onnx.version_converter."
        )
    taken = set(names_of(model.graph))
    if wanted.name in taken:
        raise UsageError(f"'{wanted.name}' was asked for twice, or is a name in the network: name it once.")
    known = graph_shapes.infer(model) if known is None else known
    shape = (known.get(wanted.tap, graph_shapes.UNKNOWN).shape or ())[1:]
    sizes = tuple(size for size in shape if isinstance(size, int))
    if len(sizes) != graph_shapes.MAP_RANK - 1 or len(shape) != len(sizes):
        found = f"has shape {shape}" if wanted.tap in taken else "is not there"
        raise UsageError(
            f"Co-occurrence needs maps, channels by height by width, but the tap '{wanted.tap}' {found}: name a tap of "
            f"maps; for an .onnx file, --tap {wanted.tap}=TENSOR makes one."
        )
    channels, height, width = sizes
    if not 0 <= wanted.distance < max(height, width):
        raise UsageError(
            f"The maps of '{wanted.tap}' have {height} x {width} cells, of which none are {wanted.distance} apart: "
            f"name a distance from 0 to {max(height, width) - 1}."
        )
    writer = NodeWriter(model, wanted.name)
    _write(writer, wanted.tap, channels, *cell_pairs(height, width, wanted.distance))
    writer.append()
    size = channels * (channels + 1) // 2
    model.graph.output.append(helper.make_tensor_value_info(wanted.name, onnx.TensorProto.FLOAT, [BATCH, size]))
    return size


def cell_pairs(height: int, width: int, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the cells, counted row by row, of all pairs at a distance below or to the right."""
    cells = np.arange(height * width).reshape(height, width)
    if distance == 0:
        return cells.ravel(), cells.ravel()
    first = np.concatenate([cells[:-distance].ravel(), cells[:, :-distance].ravel()])
    second = np.concatenate([cells[distance:].ravel(), cells[:, distance:].ravel()])
    return first, second


def _write(writer: NodeWriter, maps: str, channels: int, first: np.ndarray, second: np.ndarray) -> None:
    """Write the nodes for pairs of cells; the last one has the writer's own name."""

    def turned(matrices: str) -> str:
        return writer.add("Transpose", [matrices], "turned", perm=[0, 2, 1])

    rows = writer.add("Reshape", [maps, writer.store("flat", [0, channels, -1])], "rows")
    # The share's root on both sides of the product: sums of float16 would overflow before they are divided.
    share = writer.store("share", np.array(len(first) ** -0.5, np.float32))
    cells = writer.add("Transpose", [writer.add("Mul", [rows, share], "shares")], "cells", perm=[0, 2, 1])
    if np.array_equal(first, second):
        products = writer.add("MatMul", [turned(cells), cells], "products")
    else:
        one, other = (
            writer.add("Gather", [cells, writer.store("places", places)], "partners", axis=1)
            for places in (first, second)
        )
        directed = writer.add("MatMul", [turned(one), other], "directed")
        products = writer.add("Add", [directed, turned(directed)], "products")
    upper_rows, upper_columns = np.triu_indices(channels)
    places = writer.store("upper", upper_rows * channels + upper_columns)
    flat = writer.add("Reshape", [products, writer.store("matrix", [0, channels * channels])], "flat_products")
    upper = writer.add("Gather", [flat, places], "upper_products", axis=1)
    root = writer.add("Sqrt", [writer.add("Abs", [upper], "sizes")], "roots")
    writer.add("Mul", [root, writer.add("Sign", [upper], "signs")], "")
