"""Exports a network to ONNX, with metadata that describes it."""

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

from hwnas.checking.properties import METADATA_PREFIX, own_properties
from hwnas.data.inputs import InputShape, NamedInput, named_inputs
from hwnas.data.normalisation import Normalisation, Preprocessed
from hwnas.deploy.fold import fold_batch_norms
from hwnas.errors import HwnasError

OPSET = 18
IR_VERSION = 8
INPUT, OUTPUT = "images", "logits"
FORBIDDEN = ("RandomNormal", "RandomUniform", "Bernoulli", "Dropout", "Multinomial")
SCOPES = "pkg.torch.onnx.name_scopes"
"""Key of the node metadata in which the exporter stores the path of the node's module."""
PREPROCESSING = "preprocessing/"
"""What the names of the nodes begin with that normalise raw inputs."""


def to_onnx(module: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """Export a module in eval mode with fixed shapes, as the latency profiler needs it.

    Args:
        module: takes the inputs as positional arguments.
        inputs: example tensors; the graph has their shapes.

    Returns:
        The serialised model: opset 18, IR version 8, no external data.
    """
    data: bytes = _export(module, tuple(inputs), None, None, None).SerializeToString()
    return data


def export_network(
    network: nn.Module,
    input_shape: InputShape,
    names: tuple[str, str] = (INPUT, OUTPUT),
    preprocessing: Normalisation | None = None,
) -> onnx.ModelProto:
    """Export a network with its batch norms folded and an open batch dimension.

    Args:
        network: has one output, and one input or a tuple of several; it is not changed.
        input_shape: shape of one sample: (C, H, W) for images and the like, (L,) for tokens; or
            several inputs.
        names: names of the input and of the output in the graph; several inputs have their own.
        preprocessing: makes the model read raw inputs of this type and normalise them; None for
            normalised inputs.

    Returns:
        The model: opset 18, IR version 8, weights inside.

    Raises:
        HwnasError: when the graph contains an operator that must not be deployed, see
            `require_deployable`.
    """
    inputs = named_inputs(input_shape, names[0])
    module = deployed(network, len(inputs), preprocessing)
    examples = tuple(
        torch.zeros(2, *one.shape, dtype=getattr(torch, raw_dtype(one, preprocessing)))
        for one in inputs
    )
    batch = tuple({0: "batch"} for _ in inputs)
    # The arguments of a module with several inputs are one tuple for the exporter.
    shapes = batch if len(inputs) == 1 else (batch,)
    root = "network." if isinstance(module, Preprocessed | SeveralInputs) else ""
    input_names = [one.name for one in inputs]
    model = _export(module, examples, shapes, input_names, names[1:], root=root)
    require_deployable(model)
    onnx.checker.check_model(model)
    return model


class SeveralInputs(nn.Module):
    """A network with several inputs, which are its arguments instead of a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's outputs."""
        outputs: Tensor = self.network(inputs)
        return outputs


def deployed(
    network: nn.Module, inputs: int = 1, preprocessing: Normalisation | None = None
) -> nn.Module:
    """The network as it is deployed: batch norms folded, and raw inputs normalised if asked.

    Args:
        network: is not changed.
        inputs: how many it has; several are arguments of what is returned.
        preprocessing: of the one input.
    """
    folded = fold_batch_norms(network)
    if inputs > 1:
        return SeveralInputs(folded)
    return folded if preprocessing is None else Preprocessed(folded, preprocessing)


def raw_dtype(given: NamedInput, preprocessing: Normalisation | None) -> str:
    """The type of an input of a deployed network."""
    return given.dtype if preprocessing is None else preprocessing.dtype


def export_module(
    module: nn.Module, inputs: Mapping[str, Tensor], *, by_name: bool, dynamic_batch: bool
) -> onnx.ModelProto:
    """Export a module in eval mode.

    Args:
        module: the module.
        inputs: example tensors by the names of the graph's inputs. The first dimension of each is
            the batch.
        by_name: whether the module takes them as keyword arguments, instead of in their order.
        dynamic_batch: whether the batch dimension of the graph is open.

    Returns:
        The model: opset 18, IR version 8, weights inside.
    """
    names = list(inputs)
    shapes = [{0: "batch"} for _ in names]
    dynamic_shapes: Any = dict(zip(names, shapes, strict=True)) if by_name else tuple(shapes)
    return _export(
        module,
        () if by_name else tuple(inputs.values()),
        dynamic_shapes if dynamic_batch else None,
        names,
        None,
        kwargs=dict(inputs) if by_name else None,
    )


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic_shapes: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    kwargs: dict[str, Tensor] | None = None,
    root: str = "",
) -> onnx.ModelProto:
    logs = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
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
                kwargs=kwargs,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes,
                input_names=input_names,
                output_names=output_names,
                verbose=False,
            )
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
    if program is None:
        raise HwnasError("the exporter returned no model")
    model = program.model_proto
    _name_by_module(model, root)
    _strip(model)
    model.ir_version = IR_VERSION
    return model


def _name_by_module(model: onnx.ModelProto, root: str) -> None:
    """Name each node and its first output `module/Operator`, as `cells.0.operators.1.relu1/Relu`.

    Graph optimisers name a fused node after its output, so that a profile of the optimised graph
    can be related to the modules. Paths of modules lose the beginning `root`.
    """
    kept = {value.name for value in [*model.graph.input, *model.graph.output]}
    counts: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == SCOPES), None)
        if scopes is None:
            continue
        # The first scope is the network, whose path is empty, and the last the operator itself.
        module = ast.literal_eval(scopes)[:-1][-1].removeprefix(root)
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
    """Remove the exporter's notes about the source code, which contain local paths."""
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
    """Require standard, deterministic operators and the opset that was requested.

    Raises:
        HwnasError: when the model contains a random operator, an operator outside the ONNX
            standard, or has another opset.
    """
    domains = {entry.domain: entry.version for entry in model.opset_import}
    foreign = set(domains) - {"", "ai.onnx"}
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if used or (foreign and model.functions):
        raise HwnasError(
            "the model uses operators outside the ONNX standard",
            actual=", ".join(sorted(used or foreign)),
        )
    if domains.get("", domains.get("ai.onnx")) != OPSET:
        raise HwnasError("wrong opset", expected=OPSET, actual=domains)
    for node in model.graph.node:
        if node.op_type.startswith(FORBIDDEN):
            raise HwnasError("the model contains a random operator", actual=node.op_type)


def set_metadata(model: onnx.ModelProto, properties: Mapping[str, str]) -> None:
    """Store properties in a model under names that begin with `hwnas.`.

    All properties that the model had are removed.
    """
    onnx.helper.set_model_props(
        model, {f"{METADATA_PREFIX}{name}": value for name, value in properties.items()}
    )


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The properties that `set_metadata` stored, without the prefix of their names."""
    return own_properties({entry.key: entry.value for entry in model.metadata_props})
