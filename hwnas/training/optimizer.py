"""The optimisers of network weights, by their names in the configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn, optim

from hwnas.config import SearchConfig, TrainConfig

ADAM_SECOND_MOMENT = 0.999


def build_optimizer(network: nn.Module, config: SearchConfig | TrainConfig) -> optim.Optimizer:
    """Build the configured optimiser of a network's weights.

    It is SGD with momentum, or AdamW (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101), whose
    first-moment decay is the configured momentum. With `cuda_graph` the learning rate is a tensor
    beside the weights, which can change without a new recording, and the optimiser's kernels are
    those that read it there.
    """
    parameters, decay = list(network.parameters()), config.weight_decay
    rate: float | Tensor = config.learning_rate
    recorded = isinstance(config, SearchConfig) and config.cuda_graph
    if recorded:
        rate = torch.tensor(rate, device=parameters[0].device)
    fused = True if recorded else None
    if config.optimizer == "adamw":
        betas = (config.momentum, ADAM_SECOND_MOMENT)
        return optim.AdamW(
            parameters, lr=rate, betas=betas, weight_decay=decay, fused=fused, capturable=recorded
        )
    nesterov = isinstance(config, TrainConfig) and config.nesterov
    return optim.SGD(
        parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov,
        fused=fused,
    )  # fmt: skip


def load_optimizer(optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `state_dict` returned; learning rates that are tensors stay where they are."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"] = rate.fill_(float(group["lr"]))
