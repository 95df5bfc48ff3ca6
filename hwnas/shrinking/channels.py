"""Channels of a trained network that can only go together, by Torch-Pruning's dependency graph.

Layers that are joined by residual additions, concatenations, depthwise or grouped convolutions and
norms share their channels: a channel of one of them can go only if it goes in all. Torch-Pruning
finds these groups from the graph that autograd records (Fang et al., "DepGraph: Towards Any
Structural Pruning", CVPR 2023, arXiv 2301.12900). A group whose channels cannot be taken away, for
example because the model's code states their number, is left as it is.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.errors import InputError, RuntimeMissingError, first_line

Prune = Callable[[Any, list[int]], Any]
"""Takes some output or input channels away from a layer, in place."""
Kept = Mapping[str, Sequence[int]]
"""The units that stay of each group, by the group's name."""


@dataclass(frozen=True)
class Slice:
    """The channels of a group in one layer.

    Attributes:
        layer: path of the layer.
        prune: takes channels away from the layer.
        places: (units, ...), where each unit is among the layer's channels.
        reads: whether the layer reads these channels, and writes others.
    """

    layer: str
    prune: Prune
    places: tuple[tuple[int, ...], ...]
    reads: bool


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several layers that go together, unit by unit.

    A unit is the smallest part that can go: usually one channel, and one of each group or head
    where a layer works on several groups or heads.

    Attributes:
        name: path of the first layer that writes the channels.
        unit: channels of that layer in one unit.
        slices: where the channels are.
    """

    name: str
    unit: int
    slices: tuple[Slice, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.slices[0].places)

    @property
    def width(self) -> int:
        """Number of channels of the layer that names the group."""
        return self.units * self.unit

    @property
    def readers(self) -> tuple[Slice, ...]:
        """Where layers read the channels."""
        return tuple(one for one in self.slices if one.reads)


@dataclass(frozen=True)
class Left:
    """Channels that stay as they are.

    Attributes:
        name: path of the first layer that writes them.
        reason: why.
    """

    name: str
    reason: str


def channel_groups(
    model: nn.Module, inputs: Sequence[Tensor]
) -> tuple[list[ChannelGroup], list[Left]]:
    """Find the groups of channels that can be taken away from a model.

    Each group is tried: half of it is taken away from a copy, which has to run and to return an
    output of the same shape.

    Args:
        model: a module in evaluation mode; it is not changed.
        inputs: example inputs (N, ...), one for each argument of `forward`.

    Returns:
        The groups in the order of the model's layers, and what stays as it is.

    Raises:
        InputError: when the model does not run on the inputs, or autograd records no graph of it.
        RuntimeMissingError: when Torch-Pruning is not installed.
    """
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with torch.no_grad():
        shape = _run(model, inputs)
    graph = _dependency_graph(_with_plain_recurrence(copy.deepcopy(model)), inputs)
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    named = {_first_writer(graph, raw, order): raw for raw in _raw_groups(graph)}
    found: list[ChannelGroup] = []
    left: list[Left] = []
    for name in sorted(named, key=order.__getitem__):
        raw = named[name]
        try:
            group = _group(graph, raw, name)
            _try_half(model, group, inputs, shape)
        except Exception as error:  # the library's asserts, and whatever the model's code raises
            left.append(Left(name, first_line(error)))
        else:
            found.append(group)
    return found, left


def _try_half(
    model: nn.Module, group: ChannelGroup, inputs: Sequence[Tensor], shape: tuple[int, ...]
) -> None:
    half = narrowed(model, [group], {group.name: range((group.units + 1) // 2)})
    with torch.no_grad():
        if _run(half, inputs) != shape:
            raise InputError("the output would have another shape")


def narrowed(model: nn.Module, groups: Iterable[ChannelGroup], kept: Kept) -> nn.Module:
    """A copy of a model with some units of its groups.

    Args:
        model: the model in which the groups were found.
        groups: the groups.
        kept: the units that stay, by group; groups that are not named stay as they are.
    """
    smaller = copy.deepcopy(model)
    gone: dict[tuple[str, Prune], set[int]] = {}
    for group in groups:
        away = set(range(group.units)) - set(kept.get(group.name, range(group.units)))
        for one in group.slices:
            indices = gone.setdefault((one.layer, one.prune), set())
            indices.update(place for unit in away for place in one.places[unit])
    for (layer, prune), indices in gone.items():
        if indices:
            prune(smaller.get_submodule(layer), sorted(indices))
    return smaller


def torch_pruning() -> Any:
    """The library.

    Raises:
        RuntimeMissingError: when it is not installed.
    """
    try:
        import torch_pruning
    except ImportError:
        raise RuntimeMissingError(
            "Torch-Pruning is not installed",
            where="hwnas.shrink",
            mend="pip install 'hwnas[shrink]'",
        ) from None
    return torch_pruning


def _run(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """The shape of the model's output."""
    try:
        output = model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise InputError(
            f"the model does not run on inputs {shapes}", where="model", actual=first_line(error)
        ) from error
    if not isinstance(output, Tensor):
        raise InputError(
            "the output of the model is not a tensor",
            where="model",
            expected="one tensor (N, ...)",
            actual=type(output).__name__,
        )
    return tuple(output.shape)


def _dependency_graph(model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    library = torch_pruning()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return library.DependencyGraph().build_dependency(
                model,
                example_inputs=tuple(inputs),
                forward_fn=lambda module, given: module(*given),
                customized_pruners=_recurrent_pruners(library),
                verbose=False,
            )
    except Exception as error:  # the library asserts, and has many ways to fail on a graph
        raise InputError(
            "the dependencies between the model's channels cannot be found",
            where="model",
            expected="a model whose output autograd can follow to its layers",
            actual=first_line(error),
        ) from error


def _raw_groups(graph: Any) -> Iterable[Any]:
    """The library's groups, each beginning at a layer that writes channels."""
    ops = torch_pruning().ops
    roots = (ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_EMBED, nn.LSTM, nn.GRU)
    yield from graph.get_all_groups(root_module_types=roots)


def _first_writer(graph: Any, raw: Any, order: Mapping[str, int]) -> str:
    """The path of the first layer of the model, in the order of its modules, that a group names."""
    ops = torch_pruning().ops
    roots = (ops.TORCH_CONV, ops.TORCH_LINEAR, ops.TORCH_EMBED, nn.LSTM, nn.GRU)
    writers = [
        graph._module2name[item.dep.target.module]
        for item in raw
        if isinstance(item.dep.target.module, roots)
        and graph.is_out_channel_pruning_fn(item.dep.handler)
    ]
    first: str = min(writers, key=order.__getitem__)
    return first


def _group(graph: Any, raw: Any, name: str) -> ChannelGroup:
    """Read one of the library's groups.

    Raises:
        InputError: when its channels have to stay, with the reason.
    """
    ops = torch_pruning().ops
    root = raw[0].dep.target.module
    width = graph.get_out_channels(root)
    found: list[tuple[str, Prune, dict[int, list[int]], bool]] = []
    parts = 1
    for item in raw:
        target = item.dep.target.module
        if isinstance(target, ops._OutputOp):
            raise InputError("the model returns these channels")
        if isinstance(target, nn.Parameter):
            raise InputError("a parameter of the model itself, no layer's, has these channels")
        if not isinstance(target, nn.Module) or target not in graph._module2name:
            continue  # an operation without weights
        places: dict[int, list[int]] = {}
        for place, channel in zip(item.idxs, item.root_idxs, strict=True):
            places.setdefault(channel, []).append(place)
        if set(places) != set(range(width)):
            raise InputError("it reads or writes only a part of these channels")
        pruner = graph.get_pruner_of_module(target)
        both = pruner.prune_in_channels == pruner.prune_out_channels
        reads = not both and graph.is_in_channel_pruning_fn(item.dep.handler)
        found.append((graph._module2name[target], item.dep.handler, places, reads))
        parts = math.lcm(parts, _parts_of(target))
    if not any(reads for *_, reads in found):
        raise InputError("no later layer reads these channels")
    if width % parts:
        raise InputError(f"{width} channels are not divisible by {parts} groups")
    size = width // parts
    units = [[part * size + k for part in range(parts)] for k in range(size)]
    slices = [
        Slice(
            layer,
            prune,
            tuple(tuple(p for c in unit for p in places[c]) for unit in units),
            reads,
        )
        for layer, prune, places, reads in found
    ]
    return ChannelGroup(name, parts, tuple(slices))


def _parts_of(layer: nn.Module) -> int:
    """The number of equal parts into which a layer divides its channels."""
    if isinstance(layer, nn.MultiheadAttention):
        parts: int = layer.num_heads
    elif isinstance(layer, nn.GroupNorm):
        parts = layer.num_groups
    else:
        parts = getattr(layer, "groups", 1)
        if parts == getattr(layer, "in_channels", 0) == getattr(layer, "out_channels", 0):
            parts = 1  # depthwise: channels go with what they are computed of
    return parts


def _with_plain_recurrence(model: nn.Module) -> nn.Module:
    """Let recurrent layers compute a product, in place, so that their graph is that of one layer.

    PyTorch records each step of them.
    """

    def stand_in(layer: nn.RNNBase) -> Callable[..., Any]:
        def forward(x: Tensor, state: Any = None) -> Any:
            weight = layer.get_parameter("weight_ih_l0")
            outputs = layer.hidden_size * (1 + layer.bidirectional)
            y = F.linear(x, weight[torch.arange(outputs) % len(weight)])
            last = y[:, -1:].transpose(0, 1) if layer.batch_first else y[-1:]
            return (y, (last, last)) if isinstance(layer, nn.LSTM) else (y, last)

        return forward

    for layer in model.modules():
        if isinstance(layer, nn.LSTM | nn.GRU):
            layer.forward = stand_in(layer)  # type: ignore[method-assign]
    return model


def _recurrent_pruners(library: Any) -> dict[type[nn.Module], Any]:
    """How channels of recurrent layers are taken away: of all gates, and of the state."""

    class RecurrentPruner(library.pruner.function.BasePruningFunc):  # type: ignore[misc]
        """Of layers with one direction and one level."""

        def prune_out_channels(self, layer: nn.RNNBase, idxs: list[int]) -> nn.RNNBase:
            _require_simple(layer)
            kept = [k for k in range(layer.hidden_size) if k not in set(idxs)]
            gates = layer.get_parameter("weight_hh_l0").shape[0] // layer.hidden_size
            rows = [gate * layer.hidden_size + k for gate in range(gates) for k in kept]
            _keep(layer, "weight_ih_l0", rows, 0)
            _keep(layer, "weight_hh_l0", rows, 0)
            _keep(layer, "weight_hh_l0", kept, 1)
            if layer.bias:
                _keep(layer, "bias_ih_l0", rows, 0)
                _keep(layer, "bias_hh_l0", rows, 0)
            layer.hidden_size = len(kept)
            layer.flatten_parameters()
            return layer

        def prune_in_channels(self, layer: nn.RNNBase, idxs: list[int]) -> nn.RNNBase:
            _require_simple(layer)
            kept = [k for k in range(layer.input_size) if k not in set(idxs)]
            _keep(layer, "weight_ih_l0", kept, 1)
            layer.input_size = len(kept)
            layer.flatten_parameters()
            return layer

        def get_out_channels(self, layer: nn.RNNBase) -> int:
            return layer.hidden_size

        def get_in_channels(self, layer: nn.RNNBase) -> int:
            return layer.input_size

    pruner = RecurrentPruner()
    return {nn.LSTM: pruner, nn.GRU: pruner}


def _require_simple(layer: nn.RNNBase) -> None:
    if layer.num_layers > 1 or layer.bidirectional or layer.proj_size:
        raise InputError("a recurrent layer with several levels or directions has these channels")


def _keep(layer: nn.Module, name: str, indices: list[int], dimension: int) -> None:
    """Keep some of the rows or columns of a weight."""
    weight = getattr(layer, name).detach()
    kept = weight.index_select(dimension, torch.tensor(indices, device=weight.device))
    setattr(layer, name, nn.Parameter(kept.clone()))
