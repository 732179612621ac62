"""What of a graph its outputs depend on, and leaving out the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from pc_engine.graph.names import reads


@dataclass(frozen=True)
class GraphPart:
    """The indices of nodes and the names of tensors that lead to some tensors of a graph, these included."""

    nodes: frozenset[int]
    tensors: frozenset[str]


def part_behind(graph: onnx.GraphProto, names: Iterable[str]) -> GraphPart:
    """Return what of ``graph`` the tensors of the given ``names`` depend on."""
    producers = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    tensors: set[str] = set()
    nodes: set[int] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in tensors:
            continue
        tensors.add(name)
        k = producers.get(name)
        if k is not None and k not in nodes:
            nodes.add(k)
            pending.extend(reads(graph.node[k]))
    return GraphPart(frozenset(nodes), frozenset(tensors))


def prune(graph: onnx.GraphProto) -> None:
    """Delete, in place, the nodes and stored tensors that no output of ``graph`` depends on."""
    keep_part(graph, part_behind(graph, (value.name for value in graph.output)))


def keep_part(graph: onnx.GraphProto, part: GraphPart) -> None:
    """Delete, in place, the nodes and stored tensors that are not of ``part``."""
    for k in reversed(range(len(graph.node))):
        if k not in part.nodes:
            del graph.node[k]
    for k in reversed(range(len(graph.initializer))):
        if graph.initializer[k].name not in part.tensors:
            del graph.initializer[k]
    for k in reversed(range(len(graph.sparse_initializer))):
        if graph.sparse_initializer[k].values.name not in part.tensors:
            del graph.sparse_initializer[k]
