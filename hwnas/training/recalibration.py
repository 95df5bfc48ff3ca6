"""Batch norms with the running statistics of a network whose weights were changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate_norms(network: nn.Module, inputs: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace the running statistics of batch norms by averages over batches, in place.

    Everything but the batch norms runs in evaluation mode.

    Args:
        network: the network.
        inputs: batches of training inputs (N, ...), one for each argument of the network.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    training, momenta = network.training, [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
        norm.train()
    for batch in inputs:
        network(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)
