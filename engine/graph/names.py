"""Walking through a graph's tensors by name, subgraphs included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import onnx


def rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors throughout ``graph`` and its subgraphs, all at once."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            for k, name in enumerate(tensors):
                if name in names:
                    tensors[k] = names[name]
        for subgraph in subgraphs(node):
            rename(subgraph, names)


def stored_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the tensors of ``graph`` whose values it holds; old files list them among its inputs as well."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)


def names_of(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every tensor name of ``graph`` and its subgraphs."""
    yield from stored_names(graph)
    for value in (*graph.input, *graph.output):
        yield value.name
    for node in graph.node:
        yield from (name for name in (*node.input, *node.output) if name)
        for subgraph in subgraphs(node):
            yield from names_of(subgraph)


def is_text(model: onnx.ModelProto) -> bool:
    """Whether all names in a network, of files as well, are text, which damage to its file can undo."""
    try:
        for scope in scopes(model):
            names = names_of(scope) if isinstance(scope, onnx.GraphProto) else iter((*scope.input, *scope.output))
            for node in scope.node:
                names = chain(names, (node.name, node.op_type, node.domain), node.input, node.output)
                names = chain(names, (attribute.name for attribute in node.attribute))
            if not all(isinstance(name, str) for name in names):
                return False
        entries = (entry for tensor in stored_tensors(model) for entry in tensor.external_data)
        return all(isinstance(text, str) for entry in entries for text in (entry.key, entry.value))
    except UnicodeDecodeError:
        return False


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the tensors that ``node`` reads, those that its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for subgraph in subgraphs(node):
        yield from names_of(subgraph)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that ``node`` holds (the bodies of If, Loop and Scan)."""
    return _graphs_in(node.attribute)


def _graphs_in(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.GraphProto]:
    for attribute in attributes:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def scopes(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Yield every graph and function of ``model``, subgraphs included."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        scope = pending.pop()
        yield scope
        pending.extend(_graphs_in(_attributes(scope)))


def _attributes(scope: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.AttributeProto]:
    """Yield the attributes of the nodes of a graph or function, and those that the latter has by default."""
    for node in scope.node:
        yield from node.attribute
    if isinstance(scope, onnx.FunctionProto):
        yield from scope.attribute_proto


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of ``model``, those of subgraphs and functions included."""
    return (node for scope in scopes(model) for node in scope.node)


def stored_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor stored in ``model``: initializers and attributes, also of subgraphs and functions."""
    for scope in scopes(model):
        if isinstance(scope, onnx.GraphProto):
            yield from scope.initializer
            for sparse in scope.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for attribute in _attributes(scope):
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def fresh_name(name: str, taken: set[str]) -> str:
    """Return ``name``, or ``name`` with the first number that makes it new, and mark it taken."""
    fresh, k = name, 0
    while fresh in taken:
        k += 1
        fresh = f"{name}_{k}"
    taken.add(fresh)
    return fresh
