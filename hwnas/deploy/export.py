"""ONNX out: a network as one file that says what it is."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from hwnas.deploy.fold import fold_batch_norms
from hwnas.deploy.properties import METADATA_PREFIX, own_properties
from hwnas.errors import HwnasError

OPSET = 18
IR_VERSION = 8
INPUT, OUTPUT = "images", "logits"
FORBIDDEN = ("RandomNormal", "RandomUniform", "Bernoulli", "Dropout", "Multinomial")
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules that an operator stands in."""


def to_onnx(module: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """Export a module in eval mode, as the latency profiler needs it.

    Args:
        module: takes the inputs as positional arguments.
        inputs: example tensors; their shapes are fixed in the graph.

    Returns:
        The serialised model: opset 18, IR version 8, no external data.
    """
    return _export(module, tuple(inputs), None, None, None).SerializeToString()


def export_network(
    network: nn.Module, input_shape: tuple[int, ...], names: tuple[str, str] = (INPUT, OUTPUT)
) -> onnx.ModelProto:
    """Export a network with its batch norms folded and a dynamic batch.

    Args:
        network: of one input and one output; it is not changed.
        input_shape: (C, H, W) of images and the like, or (L,) of tokens.
        names: of input and output.

    Returns:
        The checked model.

    Raises:
        HwnasError: when the graph holds what must not be deployed.
    """
    folded = fold_batch_norms(network)
    is_text = len(input_shape) == 1
    example = torch.zeros(2, *input_shape, dtype=torch.int64 if is_text else torch.float32)
    model = _export(folded, (example,), ({0: "batch"},), names[:1], names[1:])
    require_deployable(model)
    onnx.checker.check_model(model)
    return model


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic_shapes: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> onnx.ModelProto:
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes,
                input_names=input_names,
                output_names=output_names,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise HwnasError("the exporter gave no model")
    model = program.model_proto
    _name_by_module(model)
    _strip(model)
    model.ir_version = IR_VERSION
    return model


def _name_by_module(model: onnx.ModelProto) -> None:
    """Name each node and its first output `module/Operator`, `cells.0.operators.1.relu1/Relu`.

    Graph optimisers name what they fuse by its output, so that profiles can be traced back.
    """
    kept = {value.name for value in [*model.graph.input, *model.graph.output]}
    counts: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == SCOPES), None)
        if scopes is None:
            continue
        # The first scope is the network, which has no name, and the last the operator itself.
        module = ast.literal_eval(scopes)[:-1][-1]
        name = f"{module or 'network'}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        if node.output[0] not in kept:
            renamed[node.output[0]] = node.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about the source code: it holds local paths."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in [*model.graph.node, *model.graph.input, *model.graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    for item in [*model.graph.value_info, *model.graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]


def require_deployable(model: onnx.ModelProto) -> None:
    """Raise HwnasError for random operators, foreign domains or another opset than asked for."""
    domains = {entry.domain: entry.version for entry in model.opset_import}
    foreign = sorted(set(domains) - {"", "ai.onnx"})
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if used or (foreign and model.functions):
        raise HwnasError("the model uses foreign operators", actual=", ".join(sorted(used)))
    if domains.get("", domains.get("ai.onnx")) != OPSET:
        raise HwnasError("wrong opset", expected=OPSET, actual=domains)
    for node in model.graph.node:
        if node.op_type.startswith(FORBIDDEN):
            raise HwnasError("the model holds a random operator", actual=node.op_type)


def set_metadata(model: onnx.ModelProto, properties: Mapping[str, str]) -> None:
    """Write properties under `hwnas.`, replacing those that are there."""
    onnx.helper.set_model_props(
        model, {f"{METADATA_PREFIX}{name}": value for name, value in properties.items()}
    )


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The properties that `set_metadata` wrote."""
    return own_properties({entry.key: entry.value for entry in model.metadata_props})
