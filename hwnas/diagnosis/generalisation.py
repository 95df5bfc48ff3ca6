"""Measures that theory connects with generalisation.

Their definitions follow Jiang et al., "Fantastic Generalization Measures and Where to Find Them",
ICLR 2020 (arXiv 1912.02178). A measure says something about a network only beside others of the
same space and data; `benchmarks/generalisation.py` has how well each orders networks by their test
error.

Shapes: N samples, K classes, D features, P weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONFIDENCE = 0.05
"""Probability with which a PAC-Bayes bound may fail."""
SMALLEST_SIGMA, LARGEST_SIGMA = 1e-5, 1.0


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the margin of each sample: the logit of its class minus the largest other one.

    Bartlett, "The Sample Complexity of Pattern Classification with Neural Networks", 1998. Negative
    where the prediction is wrong. In logits; one forward pass.

    Args:
        logits: (N, K).
        targets: (N,) int64.

    Returns:
        (N,).
    """
    own = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter(1, targets[:, None], -math.inf)
    return own - others.max(dim=1).values


def input_margins(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the distance of each sample to the decision boundary, to first order.

    The margin divided by the norm of its gradient with respect to the input: Elsayed et al., "Large
    Margin Deep Networks for Classification", NeurIPS 2018 (arXiv 1803.05598), eq. 7. Exact for a
    linear network. In units of the normalised input; a forward and a backward pass.

    Args:
        network: maps inputs to logits (N, K) sample by sample.
        inputs: (N, ...).
        targets: (N,) int64.

    Returns:
        (N,).
    """
    x = inputs.detach().requires_grad_()
    found = margins(network(x), targets)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    distances: Tensor = found / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
    return distances.detach()


def path_norm(network: nn.Module, input_shape: tuple[int, ...]) -> float:
    """Return the path norm: the root of the sum, over all paths, of the squared product of weights.

    Neyshabur, Tomioka & Srebro, "Norm-Based Capacity Control in Neural Networks", COLT 2015 (arXiv
    1503.00036), as Jiang et al. compute it (eq. 44): the output for an input of ones with all
    weights squared. It does not change when a ReLU network's layers are rescaled against each
    other. In logits for each unit of the input; one forward pass of one sample.

    Args:
        network: with its batch norms folded into the convolutions, in eval mode.
        input_shape: of one sample.
    """
    squared = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for module in squared.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                _square_norm(module)
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.square_()
        return math.sqrt(float(squared(torch.ones((1, *input_shape)).double()).sum()))


def _square_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Square the factor of a batch norm that follows no convolution, and its offset."""
    assert norm.running_var is not None and norm.running_mean is not None
    weight = 1.0 if norm.weight is None else norm.weight
    bias = 0.0 if norm.bias is None else norm.bias
    factor = weight / (norm.running_var + norm.eps).sqrt()
    offset = bias - factor * norm.running_mean
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.weight is not None and norm.bias is not None:
        norm.weight.copy_(factor**2)
        norm.bias.copy_(offset**2)
    else:
        norm.running_var.copy_(factor**-4 - norm.eps)
        norm.running_mean.copy_(-(offset**2) / factor**2)


@dataclass(frozen=True)
class PacBayes:
    """A PAC-Bayes bound by the flatness around the weights.

    Attributes:
        sigma: the largest standard deviation of Gaussian noise on the weights that costs at most
            the allowed error, in units of the weights.
        bound: on the error rate of the noisy network minus that on the training samples; values
            above 1 say nothing.
    """

    sigma: float
    bound: float


def pac_bayes_bound(
    error_rate: Callable[[], float],
    tensors: Sequence[Tensor],
    initial: Sequence[Tensor],
    samples: int,
    *,
    allowed: float = 0.1,
    draws: int = 4,
    bisections: int = 8,
    seed: int = 0,
) -> PacBayes:
    """Bound the generalisation gap by how much noise the weights bear.

    McAllester, "PAC-Bayesian Model Averaging", COLT 1999, with a Gaussian around the weights as the
    posterior and around the initial ones as the prior: Jiang et al., eqs. 51 and 52. The largest
    sigma at which the error grows by `allowed` is found by bisection; then

        `sqrt((|w - w0|**2 / (4 sigma**2) + log(n / CONFIDENCE) + 10) / (n - 1))`.

    Costs draws * bisections evaluations.

    Args:
        error_rate: the share of samples that the network gets wrong with the tensors' present
            values, or another loss from 0 to 1.
        tensors: the weights w; they are restored.
        initial: the weights w0 before training, which may not depend on the data.
        samples: number n of training samples.
        allowed: growth of the error rate.
        draws: noise vectors over which the growth is averaged, the same for each sigma.
        bisections: of the logarithm of sigma between 1e-5 and 1.
        seed: of the noise.
    """
    origin = [tensor.detach().clone() for tensor in tensors]
    distance = sum(
        float((w - w0).double().square().sum()) for w, w0 in zip(origin, initial, strict=True)
    )
    start = error_rate()

    def growth(sigma: float) -> float:
        generator = torch.Generator().manual_seed(seed)
        total = 0.0
        for _ in range(draws):
            with torch.no_grad():
                for tensor, value in zip(tensors, origin, strict=True):
                    noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                    tensor.copy_(value + (sigma * noise).to(value))
            total += error_rate()
        return total / draws - start

    low, high = math.log(SMALLEST_SIGMA), math.log(LARGEST_SIGMA)
    try:
        for _ in range(bisections):
            middle = (low + high) / 2
            if growth(math.exp(middle)) <= allowed:
                low = middle
            else:
                high = middle
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, origin, strict=True):
                tensor.copy_(value)
    sigma = math.exp(low)
    divergence = distance / (4 * sigma**2) + math.log(samples / CONFIDENCE) + 10
    return PacBayes(sigma, math.sqrt(divergence / (samples - 1)))


def head_rademacher(features: Tensor, norm: float, draws: int = 64, seed: int = 0) -> float:
    """Return the empirical Rademacher complexity of linear heads on a network's features.

    Bartlett & Mendelson, "Rademacher and Gaussian Complexities", JMLR 2002: the mean over random
    labels s of +1 and -1 of the largest correlation sup (1/n) sum s_i w . f_i that a head with
    `|w| <= norm` reaches, which is `norm / n * |sum s_i f_i|`. In logits. The features are taken as
    given; that they were learned from the same samples is left out, so this is no bound for the
    whole network.

    Args:
        features: (N, D), the inputs of the last layer.
        norm: Euclidean norm that the head's weights of a class may have.
        draws: random labellings.
        seed: of the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (draws, len(features)), generator=generator).double() * 2 - 1
    sums = (signs @ features.double()).norm(dim=1)
    return float(norm * sums.mean() / len(features))


def random_label_fit(
    network: nn.Module,
    inputs: Tensor,
    *,
    steps: int = 30,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> float:
    """Return how well a network fits random labels in a few steps, a lower Rademacher estimate.

    Zhang et al., "Understanding Deep Learning Requires Rethinking Generalization", ICLR 2017 (arXiv
    1611.03530), and Bartlett & Mendelson, 2002: the correlation (1/n) sum s_i g(x_i) of random
    labels s of +1 and -1 with the signs g of a class of functions, here the difference of the first
    two logits after a copy was trained on the labels by full batches of SGD with momentum 0.9. The
    supremum is not found, so the complexity is at least this, up to its standard deviation
    1 / sqrt(n); 1 means that the labels were fitted perfectly. Costs a forward and a backward pass
    over the samples for each step.

    Args:
        network: maps inputs to logits of two classes or more; it is not changed.
        inputs: (N, ...).
        steps: of SGD.
        learning_rate: of SGD.
        seed: of the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (len(inputs),), generator=generator)
    trained = copy.deepcopy(network).train()
    for parameter in trained.parameters():
        parameter.requires_grad_()
    optimizer = torch.optim.SGD(trained.parameters(), lr=learning_rate, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(trained(inputs)[:, :2], labels)
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        predicted = trained(inputs)[:, :2].argmax(dim=1)
    return float((2 * (predicted == labels).double() - 1).mean())
