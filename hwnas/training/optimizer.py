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
    beside the weights, which can change without a new recording.

    One fused kernel updates all weights where PyTorch has it, since a supernet has hundreds of
    small ones.
    """
    parameters, decay = list(network.parameters()), config.weight_decay
    rate: float | Tensor = config.learning_rate
    recorded = isinstance(config, SearchConfig) and config.cuda_graph
    if recorded:
        rate = torch.tensor(rate, device=parameters[0].device)
    fused = True if recorded or _can_be_fused(network) else None
    if config.optimizer == "adamw":
        betas = (config.momentum, ADAM_SECOND_MOMENT)
        return optim.AdamW(
            parameters, lr=rate, betas=betas, weight_decay=decay, fused=fused, capturable=recorded
        )
    nesterov = isinstance(config, TrainConfig) and config.nesterov
    sgd = optim.SGD(
        parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov,
        fused=fused,
    )  # fmt: skip
    if fused and config.momentum:
        sgd.register_step_pre_hook(_begin_momenta)
    return sgd


def _begin_momenta(optimizer: optim.Optimizer, *arguments: Any) -> None:
    """Give a momentum of zero to weights that get a gradient for the first time.

    The first step is the same with it. PyTorch's fused kernel fails where only some weights have a
    momentum, as in supernets that train a path at a time.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter not in optimizer.state:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_optimizer(optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `state_dict` returned.

    Learning rates that are tensors stay where they are, and so does the choice of kernels, which
    depends on the machine.
    """
    kept = [{"lr": group["lr"], "fused": group["fused"]} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, before in zip(optimizer.param_groups, kept, strict=True):
        group["fused"] = before["fused"]
        if isinstance(before["lr"], Tensor):
            group["lr"] = before["lr"].fill_(float(group["lr"]))
    align_state(optimizer)


def align_state(optimizer: optim.Optimizer) -> None:
    """Lay out the optimiser's state in memory as the weights are.

    The fused kernels go through weights, gradients and state in the order of their addresses.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _can_be_fused(network: nn.Module) -> bool:
    """Whether PyTorch's fused optimisers can update the network's weights.

    Their gradients must be dense, and have the weights' layout in memory, as autograd makes them
    for weights without gaps.
    """
    return not any(getattr(module, "sparse", False) for module in network.modules()) and all(
        p.is_floating_point()
        and p.device.type in ("cpu", "cuda")
        and (p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last))
        for p in network.parameters()
    )
