"""How much of a model's time each choice of the architecture takes, by ONNX Runtime's profiler.

The runtime fuses nodes across operators, for example a convolution with the addition and the ReLU
that follow, which may belong to another choice. What a fused node runs is reconstructed from the
exported graph: all nodes that lead to its output and are not run by another profiled node. Its
time is attributed to the choice of its main operation (the convolution, the pooling, ...),
including the additions and ReLUs that are fused into it. A node whose name does not occur in the
exported graph, such as a fused GELU, is attributed to the choice of the nodes before and after it,
if both belong to the same choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwnas.latency_tables.measuring.node_times import NodeShare, node_shares
from hwnas.latency_tables.runtimes import OnnxRuntime

SCHEMA = 1
FIXED, LAYOUT, UNCERTAIN = "fixed", "layout", "uncertain"
"""Names for what belongs to no choice: parts that every architecture has, changes of memory layout
that the runtime inserts, and nodes that cannot be attributed."""

_FUSED_NAME = re.compile(r"(?:fused )?(.*?)(?:/\w+Fusion/)?(?:_bn)?(?:_nchwc)?(?:_token_\d+)?")


def operator_shares(
    model: onnx.ModelProto,
    choice_modules: Mapping[str, str],
    runtime: OnnxRuntime,
    feeds: Mapping[str, np.ndarray],
    folder: Path | None = None,
) -> dict[str, Any]:
    """Profile a model that `export_network` wrote.

    Args:
        model: the model; its nodes are named after their modules.
        choice_modules: the choice that each module path of the network belongs to.
        runtime: ONNX Runtime on a CPU.
        feeds: an array for each input.
        folder: for temporary files; the system's if None.

    Returns:
        The content of `operator_shares.json`: shares of the time by choice, or by operator type if
        `choice_modules` is empty.
    """
    nodes = node_shares(runtime, model.SerializeToString(), feeds, folder)
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
    """Attribute each profiled node to a choice, `FIXED`, `LAYOUT` or `UNCERTAIN`.

    Args:
        model: the exported model.
        choice_modules: the choice that each module path of the network belongs to.
        nodes: profiled nodes, in the order in which they run.
    """
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
    """The part that the nodes before and after a node share, for a node that the runtime named."""
    neighbours = {
        next((part for part in side if part not in (None, LAYOUT)), None)
        for side in (before[::-1], after)
    }
    return (neighbours.pop() if len(neighbours) == 1 else None) or UNCERTAIN


def _sources(
    node: NodeShare, written: Mapping[str, onnx.NodeProto], run: set[str]
) -> list[onnx.NodeProto]:
    """The nodes of the exported graph that a profiled node runs.

    Only those with the profiled node's operator type, if there are any.

    Args:
        node: the profiled node.
        written: nodes of the exported graph by their name and their first output.
        run: names, in the exported graph, of all profiled nodes.
    """
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
    """The name in the exported graph that the runtime derived a profiled node's name from."""
    match = _FUSED_NAME.fullmatch(name)
    assert match is not None
    return match[1]


def _part(name: str, choice_modules: Mapping[str, str]) -> str:
    """The part that a node of the exported graph belongs to, found by its module's path."""
    module, separator, _ = name.rpartition("/")
    if not separator:
        return UNCERTAIN
    pieces = module.split(".")
    paths = (".".join(pieces[:length]) for length in range(1, len(pieces) + 1))
    return next((choice_modules[path] for path in paths if path in choice_modules), FIXED)
