"""The optimisers of network weights, by their names in the configuration."""

from __future__ import annotations

from torch import nn, optim

from hwnas.config import SearchConfig, TrainConfig

ADAM_SECOND_MOMENT = 0.999


def build_optimizer(network: nn.Module, config: SearchConfig | TrainConfig) -> optim.Optimizer:
    """Build the configured optimiser of a network's weights.

    It is SGD with momentum, or AdamW (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101), whose
    first-moment decay is the configured momentum.
    """
    parameters, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        betas = (config.momentum, ADAM_SECOND_MOMENT)
        return optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay)
    nesterov = isinstance(config, TrainConfig) and config.nesterov
    return optim.SGD(
        parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov
    )
