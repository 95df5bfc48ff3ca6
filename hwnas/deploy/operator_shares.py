"""What an exported model spends its time on, choice by choice, by ONNX Runtime's profiler.

The runtime fuses nodes across operators: a convolution with the addition and the ReLU behind it,
which may be another operator's. What a fused node runs is found in the exported graph: everything
that leads to its output and is not run by another node. Its time belongs to the part whose
convolution, pooling ... it is named for, the additions and ReLUs in it count there too. A node that
says nothing of the exported graph, as a fused GELU, belongs to the part that runs before and after
it, if that is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from hwnas.latency_tables.measuring.node_times import NodeShare, node_shares
from hwnas.latency_tables.runtimes import OnnxRuntime

SCHEMA = 1
FIXED, LAYOUT, UNCERTAIN = "fixed", "layout", "uncertain"
"""What no choice decides; changes of memory layout that the runtime inserts; the rest."""

_FUSED_NAME = re.compile(r"(?:fused )?(.*?)(?:/\w+Fusion/)?(?:_bn)?(?:_nchwc)?(?:_token_\d+)?")


def operator_shares(
    model: onnx.ModelProto,
    choice_modules: Mapping[str, str],
    runtime: OnnxRuntime,
    feeds: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Profile a model that `export_network` wrote.

    Args:
        model: its nodes have their modules' names.
        choice_modules: the network's, module path to choice.
        runtime: of a CPU.
        feeds: an array for each input.

    Returns:
        The content of `operator_shares.json`: shares of the time, `by` choice, or by operator type
        where the network does not say which module belongs to which choice.
    """
    nodes = node_shares(runtime, model.SerializeToString(), feeds)
    by_choice = bool(choice_modules)
    parts = attribute(model, choice_modules, nodes) if by_choice else [n.operator for n in nodes]
    shares: dict[str, float] = {}
    for part, node in zip(parts, nodes, strict=True):
        shares[part] = shares.get(part, 0.0) + node.share
    return {
        "schema": SCHEMA,
        "runtime": runtime.name,
        "by": "choice" if by_choice else "operator type",
        "shares": {part: round(share, 5) for part, share in sorted(shares.items())},
    }


def attribute(
    model: onnx.ModelProto, choice_modules: Mapping[str, str], nodes: Iterable[NodeShare]
) -> list[str]:
    """The part that each profiled node belongs to: a choice, `FIXED`, `LAYOUT` or `UNCERTAIN`."""
    nodes = list(nodes)
    written = {name: node for node in model.graph.node for name in (node.name, node.output[0])}
    run = {_plain(node.name) for node in nodes}
    parts: list[str | None] = []
    for node in nodes:
        if node.operator.startswith("Reorder"):
            parts.append(LAYOUT)
        elif _plain(node.name) not in written:
            parts.append(None)
        else:
            found = {_part(n.name, choice_modules) for n in _sources(node, written, run)}
            parts.append(found.pop() if len(found) == 1 else UNCERTAIN)
    return [part or _between(parts[:i], parts[i + 1 :]) for i, part in enumerate(parts)]


def _between(before: list[str | None], after: list[str | None]) -> str:
    """The part of a node that the runtime named itself: that of the nodes before and after it."""
    neighbours = {
        next((part for part in side if part not in (None, LAYOUT)), None)
        for side in (before[::-1], after)
    }
    return (neighbours.pop() if len(neighbours) == 1 else None) or UNCERTAIN


def _sources(
    node: NodeShare, written: Mapping[str, onnx.NodeProto], run: set[str]
) -> list[onnx.NodeProto]:
    """The nodes of the exported graph that a profiled node runs: those of its type if there are."""
    operator = node.operator.removeprefix("Fused")
    open_nodes, seen = [written[_plain(node.name)]], {}
    while open_nodes:
        current = open_nodes.pop()
        if current.name in seen:
            continue
        seen[current.name] = current
        if current.op_type != operator:
            inputs = (written[name] for name in current.input if name in written)
            open_nodes += [n for n in inputs if n.name not in run and n.output[0] not in run]
    return [n for n in seen.values() if n.op_type == operator] or list(seen.values())


def _plain(name: str) -> str:
    """The name in the exported graph that the runtime made a name from."""
    match = _FUSED_NAME.fullmatch(name)
    assert match is not None
    return match[1]


def _part(name: str, choice_modules: Mapping[str, str]) -> str:
    """The part that a node of the exported graph belongs to, by the path of its module."""
    module, separator, _ = name.rpartition("/")
    if not separator:
        return UNCERTAIN
    pieces = module.split(".")
    paths = (".".join(pieces[:length]) for length in range(1, len(pieces) + 1))
    return next((choice_modules[path] for path in paths if path in choice_modules), FIXED)
