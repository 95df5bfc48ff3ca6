"""The optimisers of network weights, by their names in the configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn, optim

from hwnas.config import SearchConfig, TrainConfig

ADAM_SECOND_MOMENT = 0.999


class _Aligned(optim.Optimizer):
    """An optimiser whose fused kernels may be used with any weights without gaps in memory.

    These kernels go through weights, gradients and state in the order of their addresses, whatever
    their strides are.
    """

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.stride() != parameter.stride():
                    parameter.grad = _laid_out(parameter.grad, parameter)
                self._align(self.state[parameter], parameter)
        return super().step(closure)

    def _align(self, state: dict[str, Any], parameter: Tensor) -> None:
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = _laid_out(value, parameter)


class AlignedSGD(_Aligned, optim.SGD):
    """SGD with momentum whose weights may get their first gradients at different steps.

    PyTorch's fused kernel fails where only some weights have a momentum yet, as in supernets that
    train a path at a time. With a momentum of zero their first step is the same.
    """

    def _align(self, state: dict[str, Any], parameter: Tensor) -> None:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        super()._align(state, parameter)


class AlignedAdamW(_Aligned, optim.AdamW):
    """AdamW, whatever lies elsewhere in memory."""


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
        return AlignedAdamW(
            parameters, lr=rate, betas=betas, weight_decay=decay, fused=fused, capturable=recorded
        )
    nesterov = isinstance(config, TrainConfig) and config.nesterov
    return AlignedSGD(
        parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov,
        fused=fused,
    )  # fmt: skip


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


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy that lies in memory as another tensor of its shape does."""
    return torch.empty_like(like, dtype=tensor.dtype, requires_grad=False).copy_(tensor.detach())


def _can_be_fused(network: nn.Module) -> bool:
    """Whether PyTorch's fused optimisers can update the network's weights.

    Their gradients must be dense, and no weight may have gaps in memory.
    """
    return not any(getattr(module, "sparse", False) for module in network.modules()) and all(
        p.is_floating_point()
        and p.device.type in ("cpu", "cuda")
        and (p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last))
        for p in network.parameters()
    )
