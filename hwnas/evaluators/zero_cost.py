"""Zero-cost proxies: scores of untrained networks, computed from one batch; higher is better.

Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021 (arXiv 2101.08134), compare
most of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.architecture import Architecture
from hwnas.data.inputs import InputTensors
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace
from hwnas.tasks import Loss

JITTER = 1e-5
"""Keeps kernel matrices invertible and eigenvalues positive."""


def synflow(network: nn.Module, inputs: Tensor, targets: Tensor, loss_of: Loss) -> float:
    """Return the logarithm of the synaptic flow, sum `|theta dR/dtheta|`.

    R is the sum of the outputs of the network with weights `|theta|` for an input of ones (Tanaka
    et al., "Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow",
    NeurIPS 2020). Batch norms are replaced by the identity, and float64 is used because R grows
    exponentially with the depth. ReLU6, which would bound R, and h-swish are replaced by ReLU.

    Args:
        network: the network, which is not changed.
        inputs: (N, ...) floating point; only the shape is used.
        targets: (N, ...), not used.
        loss_of: maps outputs and targets to the loss, not used.
    """
    network = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
        for module in list(network.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.zero_()  # type: ignore[union-attr]
                module.running_var.fill_(1.0)  # type: ignore[union-attr]
                module.eps = 0.0
            for name, child in list(module.named_children()):
                if isinstance(child, nn.ReLU6 | nn.Hardswish):
                    setattr(module, name, nn.ReLU())
    output = network(torch.ones_like(inputs[:1], dtype=torch.float64)).sum()
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(output, parameters, allow_unused=True)
    total = sum(
        float((p * g).detach().abs().sum())
        for p, g in zip(parameters, gradients, strict=True)
        if g is not None
    )
    return float(torch.tensor(total, dtype=torch.float64).log())


def gradient_norm(
    network: nn.Module, inputs: InputTensors, targets: Tensor, loss_of: Loss
) -> float:
    """Return the Euclidean norm of the loss's gradient with respect to all weights.

    Args:
        network: the network, which is not changed.
        inputs: (N, ...).
        targets: (N, ...).
        loss_of: maps outputs and targets to the loss.
    """
    network = copy.deepcopy(network).train()
    parameters = list(network.parameters())
    loss = loss_of(network(inputs), targets)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm: float = float(sum(g.square().sum() for g in gradients if g is not None)) ** 0.5
    return norm


def jacob_cov(network: nn.Module, inputs: Tensor, targets: Tensor, loss_of: Loss) -> float:
    """Return the Jacobian covariance score.

    It is -sum(log(v + k) + 1 / (v + k)) over the eigenvalues v of the correlation matrix of the
    samples' input gradients, with a small k (Mellor et al., "Neural Architecture Search without
    Training", version 1, arXiv 2006.04647v1). It is -inf if no input reaches the output.

    Args:
        network: the network, which is not changed.
        inputs: (N, ...) floating point.
        targets: (N, ...), not used.
        loss_of: maps outputs and targets to the loss, not used.
    """
    network = copy.deepcopy(network).train()
    inputs = inputs.clone().requires_grad_()
    logits = network(inputs).sum()
    # If no path leads through a cell, the outputs do not depend on the inputs.
    grads = torch.autograd.grad(logits, inputs, allow_unused=True) if logits.requires_grad else ()
    if not grads or grads[0] is None:
        return -math.inf
    count = len(inputs)  # for a single sample, corrcoef returns a scalar
    correlations = torch.corrcoef(grads[0].flatten(start_dim=1).double()).reshape(count, count)
    values = torch.linalg.eigvalsh(correlations.nan_to_num()) + JITTER
    return -float((values.clamp_min(JITTER).log() + 1 / values.clamp_min(JITTER)).sum())


def naswot(network: nn.Module, inputs: InputTensors, targets: Tensor, loss_of: Loss) -> float:
    """Return log `|K|`, where K counts the ReLUs on which two samples agree (active or not).

    Mellor et al., "Neural Architecture Search without Training", ICML 2021. ReLU6, h-swish and
    GELU, whose outputs have the same sign, count as ReLU.

    Args:
        network: the network, which is not changed.
        inputs: (N, ...).
        targets: (N, ...), not used.
        loss_of: maps outputs and targets to the loss, not used.
    """
    network = copy.deepcopy(network).train()
    n = len(targets)
    kernel = torch.zeros(n, n, dtype=torch.float64, device=targets.device)

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        code = (output.flatten(start_dim=1) > 0).double()
        kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6 | nn.Hardswish | nn.GELU):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(inputs)
    kernel.diagonal().add_(JITTER)
    return float(torch.linalg.slogdet(kernel)[1])


SCORES: dict[str, Callable[[nn.Module, Any, Tensor, Loss], float]] = {
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "naswot": naswot,
    "gradient_norm": gradient_norm,
}
COUNTS = ("parameters", "macs")
NEED_FLOAT_INPUTS = ("synflow", "jacob_cov")
"""Scores that differentiate by the inputs or replace them, which is not possible for tokens."""


@dataclass
class ZeroCost:
    """Scores architectures by a zero-cost proxy of their untrained networks.

    Attributes:
        space: the search space at the sizes that are scored.
        score: name of the score, one of `SCORES` or `COUNTS`.
        inputs: (N, ...), one batch; several inputs are a tuple.
        targets: (N, ...).
        seed: seed of the networks' weights.
        loss_of: maps outputs and targets to the loss.
        known: scores so far.
        perfect: 0, because scores are unbounded.
        searched: the scores at the time of the first ranking, which are those of the search.

    Raises:
        InputError: the score needs one floating-point input, but there are several or tokens.
    """

    space: SearchSpace
    score: str
    inputs: InputTensors
    targets: Tensor
    seed: int
    loss_of: Loss = F.cross_entropy
    known: dict[Architecture, float] = field(default_factory=dict)
    perfect: float = 0.0
    searched: np.ndarray | None = None

    def __post_init__(self) -> None:
        inputs = self.inputs
        is_float = isinstance(inputs, Tensor) and inputs.is_floating_point()
        if self.score in NEED_FLOAT_INPUTS and not is_float:
            kind = "tokens" if isinstance(inputs, Tensor) else "several"
            raise InputError(
                f"this score needs floating-point inputs, but the inputs are {kind}",
                where="search.zero_cost",
                expected="naswot, gradient_norm, parameters or macs",
                actual=self.score,
            )

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """Return the score; -1e9 if it is not finite. There is a single fidelity."""
        if architecture not in self.known:
            value = self._value(architecture)
            self.known[architecture] = value if math.isfinite(value) else -1e9
        return self.known[architecture]

    def _value(self, architecture: Architecture) -> float:
        if self.score in COUNTS:
            counts = self.space.params_and_macs(architecture)
            return math.log(counts[COUNTS.index(self.score)])
        torch.manual_seed(self.seed)
        network = self.space.network(architecture).to(self.targets.device)
        network.auxiliary = None
        return SCORES[self.score](network, self.inputs, self.targets, self.loss_of)

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Return the fraction of the search's scores that each architecture exceeds."""
        if self.searched is None:
            self.searched = np.array(list(self.known.values()))
        return [float(np.mean(self.searched < self(a))) for a in architectures]
