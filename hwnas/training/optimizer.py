"""Optimisers of weights, by the names that a configuration has for them."""

from __future__ import annotations

from torch import nn, optim

from hwnas.config import SearchConfig, TrainConfig

ADAM_SECOND_MOMENT = 0.999


def build_optimizer(network: nn.Module, config: SearchConfig | TrainConfig) -> optim.Optimizer:
    """SGD with momentum, or AdamW (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101)."""
    rates = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        betas = (config.momentum, ADAM_SECOND_MOMENT)
        return optim.AdamW(network.parameters(), betas=betas, **rates)
    nesterov = isinstance(config, TrainConfig) and config.nesterov
    return optim.SGD(network.parameters(), momentum=config.momentum, nesterov=nesterov, **rates)
