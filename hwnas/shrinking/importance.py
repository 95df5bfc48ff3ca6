"""What the channels and blocks of a trained network are worth, as increases of its loss.

First-order Taylor importance: removing a channel sets its activation a to zero, which changes the
loss of a sample by about -a dL/da, summed over the places of the map (Molchanov et al., "Pruning
Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, arXiv 1611.06440, eq.
8). The absolute value is averaged over samples. Activations are taken where layers read them; the
changes through several layers that read a channel are added.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from hwnas.runs import interruption
from hwnas.shrinking.channels import ChannelGroup
from hwnas.shrinking.layers import remove_block
from hwnas.tasks import Loss

Criterion = Literal["taylor", "magnitude", "batch-norm"]
"""By what the channels of a group are compared with each other."""
Batch = tuple[tuple[Tensor, ...], Tensor]
"""Inputs, one for each argument of the network, and targets."""


def unit_importance(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Batch],
    loss_of: Loss,
    criterion: Criterion = "taylor",
) -> dict[str, np.ndarray]:
    """The importance of each unit (units,), by group.

    With other criteria than `taylor`, the importances of a group are in proportion to the
    criterion, and their sum is that of the Taylor importances, so that groups can be compared.

    Args:
        model: the network.
        groups: its groups of channels.
        batches: training samples.
        loss_of: maps outputs and targets to the mean loss of a batch.
        criterion: `magnitude` is the mean square of all weights of a unit in each layer (Li et al.,
            "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv 1608.08710), `batch-norm`
            the absolute scale of its batch norms (Liu et al., "Network Slimming", ICCV 2017, arXiv
            1708.06519), where the group has any.
    """
    taylor = _taylor(model, groups, batches, loss_of)
    if criterion == "taylor":
        return taylor
    found = {}
    for group in groups:
        values = _by_weights(model, group, criterion)
        found[group.name] = values * taylor[group.name].sum() / max(values.sum(), 1e-12)
    return found


def block_importance(
    model: nn.Module, paths: Sequence[str], batches: Sequence[Batch], loss_of: Loss
) -> dict[str, float]:
    """By how much the loss grows without each block, at least 0, by the block's path."""
    whole = mean_loss(model, batches, loss_of)
    found = {}
    for path in paths:
        interruption.stop_if_requested()
        smaller = copy.deepcopy(model)
        remove_block(smaller, path)
        found[path] = max(0.0, mean_loss(smaller, batches, loss_of) - whole)
    return found


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch], loss_of: Loss) -> float:
    """The mean loss over batches, in evaluation mode."""
    training = model.training
    model.eval()
    losses = [loss_of(model(*inputs), targets).item() for inputs, targets in batches]
    model.train(training)
    return float(np.mean(losses))


def _taylor(
    model: nn.Module, groups: Sequence[ChannelGroup], batches: Sequence[Batch], loss_of: Loss
) -> dict[str, np.ndarray]:
    totals = {group.name: np.zeros(group.units) for group in groups}
    samples = 0
    with _evaluating(model), _reading(model, groups) as read:
        for inputs, targets in batches:
            interruption.stop_if_requested()
            read.clear()
            with torch.enable_grad():
                loss = loss_of(model(*inputs), targets)
            views = [view for _, view, _ in read]
            gradients = torch.autograd.grad(loss, views, allow_unused=True)
            changes: dict[str, Tensor] = {}
            for (layer, view, axis), gradient in zip(read, gradients, strict=True):
                if gradient is None:
                    continue
                # (N, channels); the loss is the mean over a batch, its gradient that of a share.
                change = (view.detach() * gradient).movedim(axis, 1)
                change = change.reshape(*change.shape[:2], -1).sum(2) * len(view)
                for group in groups:
                    for one in group.readers:
                        if one.layer == layer:
                            own = torch.stack([change[:, p].sum(1) for p in map(list, one.places)])
                            changes[group.name] = changes.get(group.name, 0) + own
            for name, change in changes.items():
                totals[name] += change.abs().sum(1).double().cpu().numpy()
            samples += len(targets)
    return {name: total / max(1, samples) for name, total in totals.items()}


@contextmanager
def _reading(
    model: nn.Module, groups: Sequence[ChannelGroup]
) -> Iterator[list[tuple[str, Tensor, int]]]:
    """Collects what the readers of groups read: path, a view of the input, its channel axis."""
    read: list[tuple[str, Tensor, int]] = []

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def keep(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *others = given
            # What does not depend on anything that is differentiated is where that begins.
            view = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            read.append((path, view, 1 if isinstance(layer, _ConvNd) else x.dim() - 1))
            return (view, *others)

        return keep

    paths = {one.layer for group in groups for one in group.readers}
    handles = [
        model.get_submodule(path).register_forward_pre_hook(hook(path)) for path in sorted(paths)
    ]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which weights get no gradients."""
    training, needing = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in needing:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needing:
            parameter.requires_grad_(True)
        model.train(training)


def _by_weights(model: nn.Module, group: ChannelGroup, criterion: Criterion) -> np.ndarray:
    """The criterion of each unit, a mean over the group's layers, each of which sums to 1."""
    found = []
    for one in group.slices:
        layer = model.get_submodule(one.layer)
        is_norm = isinstance(layer, _BatchNorm)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or (criterion == "batch-norm" and not is_norm):
            continue
        if weight.dim() == 1 and criterion == "magnitude":
            continue
        axis = 1 if one.reads != isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        axis = weight.dim() - 1 if isinstance(layer, nn.Embedding) else axis
        by_channel = weight.detach().abs() if is_norm else weight.detach().square()
        by_channel = by_channel.movedim(min(axis, weight.dim() - 1), 0)
        by_channel = by_channel.reshape(len(by_channel), -1).sum(1)
        values = np.array([float(by_channel[list(places)].sum()) for places in one.places])
        found.append(values / max(values.sum(), 1e-12))
    if not found and criterion == "batch-norm":
        return _by_weights(model, group, "magnitude")
    return np.mean(found, axis=0) if found else np.ones(group.units)
