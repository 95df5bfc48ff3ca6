"""Curvature of a loss: eigenvalues and trace of its Hessian, and sharpness.

The Hessian is applied to vectors by differentiating the gradient (Pearlmutter, "Fast Exact
Multiplication by the Hessian", Neural Computation 1994), so that it is never written down. An
application costs about four forward passes over the samples.

Eigenvalues are in units of the loss for each squared unit of the weights. Weights in front of a
batch norm can be scaled without changing the network, which scales their curvature; eigenvalues of
different networks compare only with this in mind (Dinh et al., "Sharp Minima Can Generalize for
Deep Nets", ICML 2017, arXiv 1703.04933).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]
"""Maps a vector (P,) to the product of a symmetric matrix with it."""


class Hessian:
    """The Hessian of a loss with respect to tensors, applied to vectors.

    Args:
        loss: returns the loss, a scalar, at the tensors' present values.
        tensors: leaves that require gradients, P elements in all.

    Attributes:
        gradient: of the loss, (P,).
        applications: how often it was applied to a vector.
    """

    def __init__(self, loss: Callable[[], Tensor], tensors: Sequence[Tensor]) -> None:
        self.tensors = [tensor for tensor in tensors if tensor.requires_grad]
        found = torch.autograd.grad(loss(), self.tensors, create_graph=True, allow_unused=True)
        self._gradients = [
            torch.zeros_like(tensor) if gradient is None else gradient
            for tensor, gradient in zip(self.tensors, found, strict=True)
        ]
        self.gradient = _joined([gradient.detach() for gradient in self._gradients])
        self.applications = 0

    @property
    def size(self) -> int:
        """P, the number of elements of the tensors."""
        return self.gradient.numel()

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product of the Hessian and a vector, both (P,)."""
        self.applications += 1
        sizes = [tensor.numel() for tensor in self.tensors]
        parts = [
            part.view_as(tensor).to(tensor)
            for part, tensor in zip(torch.split(vector, sizes), self.tensors, strict=True)
        ]
        needed = [(g, p) for g, p in zip(self._gradients, parts, strict=True) if g.requires_grad]
        if not needed:
            return torch.zeros_like(vector)
        products = torch.autograd.grad(
            [g for g, _ in needed],
            self.tensors,
            [p for _, p in needed],
            retain_graph=True,
            allow_unused=True,
        )
        return _joined(
            [
                torch.zeros_like(tensor) if product is None else product
                for tensor, product in zip(self.tensors, products, strict=True)
            ]
        )


@dataclass(frozen=True)
class Spectrum:
    """Extreme eigenvalues of a symmetric matrix.

    Attributes:
        values: estimates, those of largest magnitude first.
        errors: for each, a bound on its distance to the nearest eigenvalue.
        steps: applications of the matrix.
    """

    values: list[float]
    errors: list[float]
    steps: int


def lanczos(
    apply: Apply,
    size: int,
    k: int = 3,
    *,
    max_steps: int = 60,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Spectrum:
    """Return the k eigenvalues of largest magnitude of a symmetric matrix.

    Lanczos, "An Iteration Method for the Solution of the Eigenvalue Problem", 1950, with full
    reorthogonalisation in float64. The residual of each Ritz pair bounds the distance to an
    eigenvalue (Parlett, "The Symmetric Eigenvalue Problem", section 13.2). The iteration ends when
    these bounds are below `tolerance` times the largest value, or after `max_steps`. It needs
    8 * P bytes for each step.

    Args:
        apply: maps (P,) to (P,).
        size: P.
        k: number of eigenvalues.
        max_steps: largest number of applications.
        tolerance: relative error at which the iteration ends.
        seed: of the first vector.
    """
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    basis = [vector / vector.norm()]
    diagonal, beside = list[Tensor](), list[Tensor]()
    values = errors = torch.zeros(0, dtype=torch.float64)
    for _ in range(min(max_steps, size)):
        image = apply(basis[-1]).double()
        diagonal.append(basis[-1] @ image)
        for _ in range(2):  # twice is enough (Kahan; Parlett, section 6.9)
            image = image - torch.stack(basis).T @ (torch.stack(basis) @ image)
        beside.append(image.norm())
        matrix = torch.diag(torch.stack(diagonal))
        if len(diagonal) > 1:
            off = torch.stack(beside[:-1])
            matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
        found, vectors = torch.linalg.eigh(matrix)
        order = found.abs().argsort(descending=True)[:k]
        values, errors = found[order], (beside[-1] * vectors[-1, order]).abs()
        is_done = len(diagonal) >= k and bool((errors <= tolerance * values.abs().max()).all())
        if is_done or beside[-1] <= 1e-12 * values.abs().max().clamp_min(1e-300):
            break
        basis.append(image / beside[-1])
    return Spectrum(values.tolist(), errors.tolist(), len(diagonal))


def hutchinson_trace(
    apply: Apply, size: int, probes: int = 8, seed: int = 0
) -> tuple[float, float]:
    """Return an unbiased estimate of the trace of a matrix, and its standard error.

    Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", Communications in
    Statistics 1989: the mean of v^T A v over random signs v. One application for each probe.

    Args:
        apply: maps (P,) to (P,).
        size: P.
        probes: number of random vectors, at least 2.
        seed: of the vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = (torch.randint(2, (probes, size), generator=generator) * 2 - 1).double()
    found = torch.stack([v @ apply(v).double() for v in signs])
    return float(found.mean()), float(found.std() / probes**0.5)


def sharpness(
    loss: Callable[[], Tensor], tensors: Sequence[Tensor], radius: float = 0.05, steps: int = 5
) -> float:
    """Return how much the loss grows at most within a distance of the weights.

    Foret et al., "Sharpness-Aware Minimization", ICLR 2021 (arXiv 2010.01412), eq. 1: the largest
    `L(w + e) - L(w)` over `|e| <= radius`. The first step is theirs (eq. 2); the others ascend
    further and go back to the sphere, and the largest value counts, so that it is a lower bound of
    the maximum. Each step costs a forward and a backward pass.

    Args:
        loss: returns the loss, a scalar, at the tensors' present values.
        tensors: leaves that require gradients; they are restored.
        radius: Euclidean norm of the largest change of all weights together.
        steps: steps of the ascent.

    Returns:
        In units of the loss; at least 0.
    """
    tensors = [tensor for tensor in tensors if tensor.requires_grad]
    origin = [tensor.detach().clone() for tensor in tensors]
    offset = torch.zeros(sum(t.numel() for t in tensors), dtype=torch.float64)
    with torch.no_grad():
        start = best = float(loss())
    try:
        for _ in range(steps):
            found = torch.autograd.grad(loss(), tensors, allow_unused=True)
            gradient = _joined(
                [
                    torch.zeros_like(t) if g is None else g
                    for t, g in zip(tensors, found, strict=True)
                ]
            ).double()
            offset = offset + radius * gradient / gradient.norm().clamp_min(1e-30)
            offset = offset * (radius / offset.norm().clamp_min(1e-30))
            _move(tensors, origin, offset)
            with torch.no_grad():
                best = max(best, float(loss()))
    finally:
        _move(tensors, origin, torch.zeros_like(offset))
    return best - start


def _move(tensors: Sequence[Tensor], origin: Sequence[Tensor], offset: Tensor) -> None:
    """Set the tensors to their original values plus an offset (P,)."""
    with torch.no_grad():
        parts = torch.split(offset, [tensor.numel() for tensor in tensors])
        for tensor, value, part in zip(tensors, origin, parts, strict=True):
            tensor.copy_(value + part.view_as(tensor).to(tensor))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
