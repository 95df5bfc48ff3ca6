"""Random cells for tests of the kernels, their float64 reference, and comparisons with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from helpers.candidates import candidates_of, flat
from torch import Tensor

from hwnas import kernels
from hwnas.kernels import Edge
from hwnas.kernels.plan import tensors_of

DARTS_CELL = tuple((source, target, 1) for target in range(2, 5) for source in range(target))
REDUCTION_CELL = tuple(
    (source, target, 2 if source < 2 else 1) for target in range(2, 5) for source in range(target)
)
NASBENCH_CELL = tuple((source, target, 1) for target in range(1, 4) for source in range(target))


@dataclass
class Cell:
    """A cell and its tensors in float64; `evaluate` casts them.

    Attributes:
        edges: the edges with their candidates.
        inputs: (N, C, H, W) each.
        weights: mixing weights, (edges, candidates).
        gradients: gradients of the nodes for the backward pass.
    """

    edges: list[Edge]
    inputs: list[Tensor]
    weights: Tensor
    gradients: list[Tensor]

    def evaluate(self, impl: str, dtype: torch.dtype, **settings) -> dict[str, Tensor]:
        """Nodes, gradients and running statistics by name; `settings` go to `mixed_cell`."""
        edges = copies(self, dtype, is_flat=False)
        inputs = [x.to(dtype, copy=True).requires_grad_() for x in self.inputs]
        weights = self.weights.to(dtype, copy=True).requires_grad_()
        nodes = kernels.mixed_cell(inputs, weights, edges, impl=impl, **settings)
        found = {f"node{i}": node.detach() for i, node in enumerate(nodes)}
        parameters, norms = tensors_of(edges)
        leaves = {f"d_input{i}": x for i, x in enumerate(inputs)} | {"d_weights": weights}
        for position, (candidate, name) in enumerate(parameters):
            leaves[f"d_{position} {candidate.name} {name}"] = candidate.tensors[name]
        loss = sum((n * g.to(dtype)).sum() for n, g in zip(nodes, self.gradients, strict=True))
        # The nodes of a cell without active candidates do not require gradients.
        loss = loss + 0 * weights.sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            found[name] = torch.zeros_like(leaf) if gradient is None else gradient
        for position, (candidate, prefix) in enumerate(norms):
            for what in ("running_mean", "running_var"):
                found[f"{position} {prefix}.{what}"] = candidate.tensors[f"{prefix}.{what}"]
        return found


def cast(candidate: kernels.Candidate, dtype: torch.dtype) -> kernels.Candidate:
    """A copy in another type, with parameters that are leaves and require gradients."""
    tensors = {}
    for name, tensor in candidate.tensors.items():
        if tensor.dtype.is_floating_point:
            tensor = tensor.detach().to(dtype, copy=True)
            tensor.requires_grad_(name.endswith((".weight", ".bias")))
        tensors[name] = tensor
    return kernels.Candidate(candidate.name, tensors)


def copies(case: Cell, dtype: torch.dtype, *, is_flat: bool) -> list[Edge]:
    """The edges of a case with tensors of their own, which are flat or one by one."""
    edges = []
    for edge in case.edges:
        candidates = [cast(candidate, dtype) for candidate in edge.candidates]
        edges.append(edge._replace(candidates=flat(candidates) if is_flat else candidates))
    return edges


def affine(candidate: kernels.Candidate, generator: torch.Generator) -> kernels.Candidate:
    """The candidate with scales and shifts in its batch norms."""
    tensors = dict(candidate.tensors)
    for name, running in candidate.tensors.items():
        if name.endswith("running_mean"):
            prefix = name.removesuffix("running_mean")
            for part in ("weight", "bias"):
                tensors[prefix + part] = torch.randn(
                    running.shape, generator=generator, dtype=torch.float64
                )
    return kernels.Candidate(candidate.name, tensors)


def make_cell(
    space: str,
    structure: Sequence[tuple[int, int, int]],
    images: int,
    channels: int,
    size: tuple[int, int],
    seed: int,
    *,
    with_affine: bool = False,
    mean: float = 0.0,
    active: Sequence[int] | None = None,
) -> Cell:
    """A random cell.

    Args:
        space: `darts` or `nasbench201`.
        structure: (source, target, stride) of each edge.
        images: batch size.
        channels: number of channels of all states.
        size: (height, width) of the inputs.
        seed: of all tensors.
        with_affine: whether the batch norms have scales and shifts.
        mean: mean of the inputs, whose standard deviation is 1.
        active: indices of the active candidates of each edge; None for all.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    first = min(target for _, target, _ in structure)
    sizes = [size] * first
    edges = []
    for source, target, stride in structure:
        if target == len(sizes):
            sizes.append((-(-sizes[source][0] // stride), -(-sizes[source][1] // stride)))
        _, candidates = candidates_of(space, channels, sizes[source], stride, torch.float64)
        if with_affine:
            candidates = [affine(candidate, generator) for candidate in candidates]
        edges.append(Edge(source, target, candidates, stride, active))

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = [mean + noise(images, channels, *size) for _ in range(first)]
    weights = torch.softmax(noise(len(edges), len(edges[0].candidates)), dim=1)
    gradients = [noise(images, channels, *s) for s in sizes[first:]]
    return Cell(edges, inputs, weights, gradients)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of the exact values."""
    norm = exact.double().norm()
    difference = (found.double() - exact.double()).norm()
    return float(difference / norm) if norm > 0 else float(difference)


@contextmanager
def closest_tie() -> Iterator[list[float]]:
    """Collect how close plain PyTorch comes to a kink of a ReLU or a tie of a maximum.

    Gradients are discontinuous there, so float32 results are not comparable with float64 where
    rounding errors can change the decision.
    """
    relu, max_pool2d = F.relu, F.max_pool2d
    gaps: list[float] = []

    def watched_relu(x: Tensor) -> Tensor:
        gaps.append(float(x.detach().abs().min()))
        return relu(x)

    def watched_pool(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
        padded = F.pad(x.detach(), (padding,) * 4, value=-1e9)
        windows = F.unfold(padded, size, stride=stride).unflatten(1, (x.shape[1], -1))
        best = windows.topk(2, dim=2).values
        gaps.append(float((best[:, :, 0] - best[:, :, 1]).min()))
        return max_pool2d(x, size, stride, padding)

    F.relu, F.max_pool2d = watched_relu, watched_pool
    try:
        yield gaps
    finally:
        F.relu, F.max_pool2d = relu, max_pool2d


def assert_as_exact_as_torch(
    found: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor]
) -> None:
    """Check that errors are at most four times those of plain PyTorch, plus 1e-5."""
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        allowed = 4 * relative_error(plain[name], value) + 1e-5
        error = relative_error(found[name], value)
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
