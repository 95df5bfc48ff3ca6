"""Scores of untrained networks from one batch (Abdelfattah et al., "Zero-Cost Proxies for
Lightweight NAS", ICLR 2021, arXiv 2101.08134, compares them); higher is better.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace
from hwnas.tasks import Loss

JITTER = 1e-5


def synflow(network: nn.Module, inputs: Tensor, targets: Tensor, loss_of: Loss) -> float:
    """Log of sum `|theta dR/dtheta|`, R the output of ones through `|theta|`: Tanaka et al.,
    "Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow", NeurIPS
    2020.

    Batch norms are left out, and all is float64, since R is a product over the depth; ReLU6, which
    would bound it, and h-swish are taken as ReLU.

    Args:
        network: inputs to outputs; it is not changed.
        inputs: (N, ...) numbers; only their shape counts.
        targets: (N, ...); they do not count.
        loss_of: of outputs and targets; it does not count.
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


def gradient_norm(network: nn.Module, inputs: Tensor, targets: Tensor, loss_of: Loss) -> float:
    """Norm of the loss's gradient by all weights; arguments as for `synflow`."""
    network = copy.deepcopy(network).train()
    parameters = list(network.parameters())
    loss = loss_of(network(inputs), targets)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(sum(g.square().sum() for g in gradients if g is not None)) ** 0.5


def jacob_cov(network: nn.Module, inputs: Tensor, targets: Tensor, loss_of: Loss) -> float:
    """-sum(log(v + k) + 1 / (v + k)) over the eigenvalues v of the correlations between the
    samples' input gradients: Mellor et al., "Neural Architecture Search without Training",
    version 1 (arXiv 2006.04647v1). Arguments as for `synflow`.
    """
    network = copy.deepcopy(network).train()
    inputs = inputs.clone().requires_grad_()
    logits = network(inputs).sum()
    # A cell without a path from its input makes the network a constant.
    grads = torch.autograd.grad(logits, inputs, allow_unused=True) if logits.requires_grad else ()
    if not grads or grads[0] is None:
        return -math.inf
    correlations = torch.atleast_2d(torch.corrcoef(grads[0].flatten(start_dim=1).double()))
    values = torch.linalg.eigvalsh(correlations.nan_to_num()) + JITTER
    return -float((values.clamp_min(JITTER).log() + 1 / values.clamp_min(JITTER)).sum())


def naswot(network: nn.Module, inputs: Tensor, targets: Tensor, loss_of: Loss) -> float:
    """Log `|K|`, K the shares of ReLUs on which two samples agree, summed over the layers: Mellor
    et al., "Neural Architecture Search without Training", ICML 2021. ReLU6, h-swish and GELU count
    as ReLU, whose sign is theirs. Arguments as for `synflow`.
    """
    network = copy.deepcopy(network).train()
    n = len(inputs)
    kernel = torch.zeros(n, n, dtype=torch.float64, device=inputs.device)

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


SCORES: dict[str, Callable[[nn.Module, Tensor, Tensor, Loss], float]] = {
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "naswot": naswot,
    "gradient_norm": gradient_norm,
}
COUNTS = ("parameters", "macs")
OF_NUMBERS = ("synflow", "jacob_cov")
"""Scores of networks whose inputs can be any numbers; tokens cannot."""


@dataclass
class ZeroCost:
    """Scores untrained networks.

    Candidates are ranked among what was scored before the first ranking, the search.

    Attributes:
        space: at the sizes that are scored.
        score: of `SCORES` or `COUNTS`.
        inputs: (N, ...), one batch.
        targets: (N, ...).
        seed: of the weights.
        loss_of: of outputs and targets.
        known: scores so far.
        perfect: there is no highest score.
        searched: the scores of the search, once there was a ranking.
    """

    space: SearchSpace
    score: str
    inputs: Tensor
    targets: Tensor
    seed: int
    loss_of: Loss = F.cross_entropy
    known: dict[Architecture, float] = field(default_factory=dict)
    perfect: float = 0.0
    searched: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.score in OF_NUMBERS and not self.inputs.is_floating_point():
            raise InputError(
                "this score needs inputs that are numbers",
                where="search.zero_cost",
                expected="naswot, gradient_norm, parameters or macs",
                actual=self.score,
            )

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """The score; -1e9 where it is not finite, as of a network without any weight.

        There is one fidelity only.
        """
        if architecture not in self.known:
            value = self._value(architecture)
            self.known[architecture] = value if math.isfinite(value) else -1e9
        return self.known[architecture]

    def _value(self, architecture: Architecture) -> float:
        if self.score in COUNTS:
            counts = self.space.params_and_macs(architecture)
            return math.log(counts[COUNTS.index(self.score)])
        torch.manual_seed(self.seed)
        network = self.space.network(architecture).to(self.inputs.device)
        network.auxiliary = None
        return SCORES[self.score](network, self.inputs, self.targets, self.loss_of)

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Share of what the search scored that each is better than."""
        if self.searched is None:
            self.searched = np.array(list(self.known.values()))
        return [float(np.mean(self.searched < self(a))) for a in architectures]
