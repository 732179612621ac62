"""How much a network computes, and how much the cores can: what share of the processor's peak an inference reaches."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import onnx

from pc_engine.backbone import CompileRequest
from pc_engine.graph.attributes import attribute
from pc_engine.graph.operators import LINEAR
from pc_engine.graph.prepare import open_graph
from pc_engine.graph.shapes import Value, infer

_SOURCE = Path(__file__).with_name("instruction_rate.c")
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 60


def operations_per_image(request: CompileRequest) -> int:
    """Return the additions and multiplications of the convolutions and matrix products for one image.

    Counted in the graph as it is cut to the taps wanted, two for each weight that meets a value; everything else of a
    network is a few per cent of that. 0 where the shapes are unknown.
    """
    graph = open_graph(request.network, request.manifest, request.taps)
    shapes = infer(graph)
    stored = {tensor.name: Value(tensor.data_type, tuple(tensor.dims)) for tensor in graph.graph.initializer}
    known = {**shapes, **stored}
    return 2 * sum(_multiply_adds(node, known) for node in graph.graph.node)


def _multiply_adds(node: onnx.NodeProto, known: dict[str, Value]) -> int:
    """Return the products of one node for one image: its outputs, each a sum over what it is connected to."""
    if node.op_type not in LINEAR:
        return 0
    output, weight = (_dims(known, name) for name in (node.output[0], node.input[1]))
    if output is None or weight is None:
        return 0
    # The first axis of an output counts images, whatever number of them the graph was made for.
    outputs = math.prod(output[1:])
    if node.op_type == "Conv":
        return outputs * math.prod(weight[1:])  # (out, in / group, height, width)
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return outputs * weight[1 if transposed else -2]


def _dims(known: dict[str, Value], name: str) -> tuple[int, ...] | None:
    shape = known[name].shape if name in known else None
    if shape is None or len(shape) < 2 or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return tuple(size if isinstance(size, int) else 1 for size in shape)


def peak_operations(threads: int) -> dict[str, float]:
    """Return the most operations a second that ``threads`` cores can do, by precision.

    Measured by multiply-add instructions on registers alone, in a C program compiled for this very processor: with
    AVX2, AVX-512 and their VNNI and bf16 extensions, or with the tiles of AMX. A precision whose instructions are not
    among these is absent, and the dictionary is empty where there is no C compiler.
    """
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="pc-engine-") as folder:
        program = str(Path(folder) / "instruction_rate")
        options = ("-O2", "-march=native", "-pthread")
        try:
            subprocess.run(
                [compiler, *options, str(_SOURCE), "-o", program], check=True, capture_output=True, timeout=_SECONDS
            )
            done = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.SubprocessError):  # another system, processor or compiler
            return {}
    return {precision: float(rate) for precision, rate in map(str.split, done.stdout.splitlines())}
