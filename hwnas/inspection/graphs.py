"""Validates graphs: every value is defined once and before its use, and functions are finite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto

from hwnas.errors import InputError
from hwnas.inspection.tensors import subgraphs

MAX_NODES = 1_000_000
"""Limit on the nodes of a model after its functions are expanded."""


def require_names(graph: GraphProto, where: str, outer: Sequence[set[str]] = ()) -> None:
    """Refuse a graph in which a value is defined twice, never, or after its use.

    Args:
        graph: the graph; its subgraphs are validated too.
        where: the file, for errors.
        outer: names that are visible to the graph from the graphs around it.

    Raises:
        InputError: when the graph is refused; the error names the node and the value.
    """
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {pair.values.name for pair in graph.sparse_initializer}
    if len(stored) != len(graph.initializer) + len(graph.sparse_initializer):
        twice = Counter(tensor.name for tensor in graph.initializer).most_common(1)[0][0]
        raise InputError("the tensor is stored twice", where=f"{where}: tensor {twice!r}")
    inputs = {value.name for value in graph.input}
    if len(inputs) != len(graph.input):
        twice = Counter(value.name for value in graph.input).most_common(1)[0][0]
        raise InputError("the input is declared twice", where=f"{where}: input {twice!r}")
    computed = {name for node in graph.node for name in node.output}
    known = inputs | stored
    scopes = (*outer, known)
    for node in graph.node:
        at = f"{where}: node {_label(node)}"
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                _raise_unknown(name, name in computed, at)
        for inner in subgraphs(node.attribute):
            require_names(inner, where, scopes)
        for name in filter(None, node.output):
            if name in known:
                raise InputError("a value is computed twice", where=at, actual=name)
            known.add(name)
    for value in graph.output:
        if not any(value.name in scope for scope in scopes):
            raise InputError("an output is never computed", where=where, actual=value.name)


def _raise_unknown(name: str, is_computed: bool, where: str) -> None:
    if is_computed:
        raise InputError(
            "needs a value that is computed after it",
            where=where,
            expected="no cycle, and nodes in the order of their computation",
            actual=name,
        )
    raise InputError("needs a value that nothing computes", where=where, actual=name)


def _label(node: NodeProto) -> str:
    return f"{node.name!r} ({node.op_type})" if node.name else node.op_type


def require_finite_functions(model: ModelProto, where: str) -> None:
    """Refuse functions that are recursive, or that expand to more than a million nodes.

    Raises:
        InputError: when a function is refused or defined twice.
    """
    functions = {(f.domain, f.name): f for f in model.functions}
    if len(functions) != len(model.functions):
        overloaded = {(f.domain, f.name, f.overload) for f in model.functions}
        if len(overloaded) != len(model.functions):
            raise InputError("a function is defined twice", where=where)
    calls: set[tuple[str, str]] = set()

    @cache
    def nodes_in(key: tuple[str, str]) -> int:
        if key in calls:
            raise InputError("a function calls itself", where=f"{where}: function {key[1]!r}")
        calls.add(key)
        total = count(functions[key].node)
        total += sum(count(inner.node) for inner in subgraphs(functions[key].attribute_proto))
        calls.remove(key)
        return total

    def count(nodes: Iterable[Any]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += nodes_in(key) if key in functions else 1
            total += sum(count(inner.node) for inner in subgraphs(node.attribute))
        if total > MAX_NODES:
            raise InputError(
                "too many nodes after its functions are expanded",
                where=where,
                expected=f"at most {MAX_NODES}",
                actual=total,
            )
        return total

    try:
        count(model.graph.node)
        for key in functions:
            nodes_in(key)
    except RecursionError:
        raise InputError("functions nested too deeply", where=where) from None


def operator_counts(model: ModelProto) -> dict[str, int]:
    """Number of nodes of each operator; `domain:name` for operators outside the standard domain.

    Nodes of subgraphs count too, and nodes of a function count once for its definition.
    """
    counts: Counter[str] = Counter()

    def add(nodes: Iterable[Any]) -> None:
        for node in nodes:
            standard = node.domain in ("", "ai.onnx")
            counts[node.op_type if standard else f"{node.domain}:{node.op_type}"] += 1
            for inner in subgraphs(node.attribute):
                add(inner.node)

    add(model.graph.node)
    for function in model.functions:
        add(function.node)
        for inner in subgraphs(function.attribute_proto):
            add(inner.node)
    return dict(sorted(counts.items()))
