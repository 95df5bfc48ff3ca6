"""All measures of a trained classifier or regressor at once, as numbers by name.

Shapes: N samples, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from hwnas.diagnosis.curvature import Hessian, hutchinson_trace, lanczos, sharpness
from hwnas.diagnosis.generalisation import (
    head_rademacher,
    input_margins,
    margins,
    pac_bayes_bound,
    path_norm,
    random_label_fit,
)
from hwnas.diagnosis.lipschitz import lipschitz_bounds

LOW = 0.1
"""Quantile of the margins that is looked at: most samples have larger ones."""
RADIUS = 0.05
"""Distance of weights within which sharpness is looked for, as in the paper."""


@dataclass(frozen=True)
class Trained:
    """A trained network and the samples that its measures are taken on.

    Attributes:
        network: in eval mode; it is restored after every measure.
        folded: the same function with batch norms folded, traced by torch.fx.
        initial: the weights before training, by name; empty if they are not known.
        loss_of: maps outputs and targets to the mean loss.
        inputs: (N, ...), training samples.
        targets: (N, ...).
        samples: number of samples that the network was trained on.
    """

    network: nn.Module
    folded: fx.GraphModule
    initial: dict[str, Tensor]
    loss_of: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    samples: int

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weights of convolutions and linear layers, by name."""
        named = self.network.named_parameters()
        return {name: parameter for name, parameter in named if parameter.ndim > 1}

    def loss(self) -> Tensor:
        """The loss on the samples, differentiable."""
        return self.loss_of(self.network(self.inputs), self.targets)


def lipschitz_measures(trained: Trained, samples: int = 64) -> dict[str, Any]:
    """Both Lipschitz bounds; see `hwnas.diagnosis.lipschitz`.

    Args:
        trained: the network.
        samples: of the inputs at which the Jacobian is taken.
    """
    found = lipschitz_bounds(trained.folded, trained.inputs[:samples])
    largest = sorted(found.norms.items(), key=lambda item: -item[1])[:5]
    return {
        "lower": found.lower,
        "median": found.median,
        "upper": found.upper,
        "unbounded": found.unbounded,
        "samples": min(samples, len(trained.inputs)),
        "largest_norms": [{"layers": layers, "norm": norm} for layers, norm in largest],
    }


def curvature_measures(
    trained: Trained, *, k: int = 3, steps: int = 20, probes: int = 6
) -> dict[str, Any]:
    """Eigenvalues and trace of the loss's Hessian, and sharpness; see `hwnas.diagnosis.curvature`.

    Args:
        trained: the network.
        k: number of eigenvalues.
        steps: applications of the Hessian for them, at most.
        probes: applications for the trace.
    """
    tensors = list(trained.network.parameters())
    hessian = Hessian(trained.loss, tensors)
    spectrum = lanczos(hessian, hessian.size, k, max_steps=steps, tolerance=0.01)
    trace, error = hutchinson_trace(hessian, hessian.size, probes)
    gradient_norm = float(hessian.gradient.double().norm())
    del hessian
    return {
        "eigenvalues": spectrum.values,
        "errors": spectrum.errors,
        "steps": spectrum.steps,
        "trace": trace,
        "trace_error": error,
        "gradient_norm": gradient_norm,
        "sharpness": sharpness(trained.loss, tensors, RADIUS),
        "radius": RADIUS,
        "samples": len(trained.inputs),
    }


def generalisation_measures(
    trained: Trained, *, random_labels: int = 200, steps: int = 30
) -> dict[str, Any]:
    """Margins, path norm, PAC-Bayes bound, Rademacher estimates of a classifier.

    See `hwnas.diagnosis.generalisation`; what cannot be computed is None.

    Args:
        trained: the network, with one class for each sample as targets.
        random_labels: samples that are given random labels.
        steps: of training on them.
    """
    network, inputs, targets = trained.network, trained.inputs, trained.targets
    with torch.no_grad():
        outputs = network(inputs)
    of_outputs = margins(outputs, targets)
    of_inputs = input_margins(network, inputs, targets) if inputs.is_floating_point() else None
    features, norm = head_of(network, inputs)
    bound = None
    if trained.initial:
        weights = trained.weights

        @torch.no_grad()
        def error_rate() -> float:
            return float((network(inputs).argmax(dim=1) != targets).double().mean())

        bound = pac_bayes_bound(
            error_rate,
            list(weights.values()),
            [trained.initial[name] for name in weights],
            trained.samples,
        )
    found: dict[str, Any] = {
        "margins": quantiles(of_outputs),
        "input_margins": None if of_inputs is None else quantiles(of_inputs),
        "training_error": float((of_outputs < 0).double().mean()),
        "path_norm": None,
        "sigma": None if bound is None else bound.sigma,
        "pac_bayes": None if bound is None else bound.bound,
        "head_rademacher": None if features is None else head_rademacher(features, norm),
        "random_label_fit": None,
        "samples": len(inputs),
    }
    if inputs.is_floating_point():
        found["path_norm"] = finite(path_norm(trained.folded, tuple(inputs.shape[1:])))
        part = inputs[:random_labels]
        found["random_label_fit"] = random_label_fit(network, part, steps=steps)
        found["random_label_noise"] = 1 / math.sqrt(len(part))
    return found


def quantiles(values: Tensor) -> dict[str, float]:
    """The low quantile `LOW`, the median and the high one of some values."""
    points = torch.tensor([LOW, 0.5, 1 - LOW], dtype=values.dtype)
    low, median, high = torch.quantile(values, points).tolist()
    return {"low": low, "median": median, "high": high}


def head_of(network: nn.Module, inputs: Tensor) -> tuple[Tensor | None, float]:
    """The inputs (N, D) of the last linear layer, and the largest norm of the weights of a class.

    None, and 0, if there is no linear layer.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        return None, 0.0
    seen: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        hook.remove()
    norms = layers[-1].weight.detach().norm(dim=1)
    return seen[-1].flatten(1), float(norms.max())


def finite(value: float) -> float | None:
    """A number, or None for one that JSON cannot hold."""
    return value if math.isfinite(value) else None
