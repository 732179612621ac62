"""Leaving out what a changed graph no longer needs."""

from __future__ import annotations

import onnx

from pc_engine.graph_names import reads


def prune(graph: onnx.GraphProto) -> None:
    """Delete, in place, the nodes and stored tensors that no output of ``graph`` depends on."""
    producers = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    tensors: set[str] = set()
    nodes: set[int] = set()
    pending = [value.name for value in graph.output]
    while pending:
        name = pending.pop()
        if name in tensors:
            continue
        tensors.add(name)
        k = producers.get(name)
        if k is not None and k not in nodes:
            nodes.add(k)
            pending.extend(reads(graph.node[k]))
    for k in reversed(range(len(graph.node))):
        if k not in nodes:
            del graph.node[k]
    for k in reversed(range(len(graph.initializer))):
        if graph.initializer[k].name not in tensors:
            del graph.initializer[k]
    for k in reversed(range(len(graph.sparse_initializer))):
        if graph.sparse_initializer[k].values.name not in tensors:
            del graph.sparse_initializer[k]
