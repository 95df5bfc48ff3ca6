"""Choices of a supernet: the weighted sum of an edge's candidate operators, and cells of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from hwnas import kernels
from hwnas.architecture import Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build_candidate


class MixedOp(nn.Module):
    """The candidates of one choice.

    Args:
        specs: one operator for each option, in the order of the options.
        normalise_pools: whether pools are followed by a batch norm.
    """

    def __init__(self, specs: Sequence[OpSpec], *, normalise_pools: bool) -> None:
        super().__init__()
        self.stride = specs[0].stride
        self.candidates = nn.ModuleDict(
            {spec.name: build_candidate(spec, normalise_pools=normalise_pools) for spec in specs}
        )

    def described(self) -> list[kernels.Candidate]:
        """The candidates as `hwnas.kernels` takes them."""
        return [
            kernels.Candidate(name, dict(_tensors(module)))
            for name, module in self.candidates.items()
        ]


class MixedCell(nn.Module):
    """A cell whose every edge is a mixture; run by `hwnas.kernels.mixed_cell`.

    Args:
        edges: (source, target) of each edge; states are numbered, the cell's inputs first.
        mixed_ops: one for each edge.

    Attributes:
        momentum: of the running statistics.
        impl, recompute: the settings of `hwnas.kernels.mixed_cell`.
    """

    def __init__(self, edges: Sequence[tuple[int, int]], mixed_ops: Sequence[MixedOp]) -> None:
        super().__init__()
        self.edges = list(edges)
        self.mixed_ops = nn.ModuleList(mixed_ops)
        self.momentum = 0.1
        self.impl = "auto"
        self.recompute = "nothing"

    def forward(
        self, inputs: Sequence[Tensor], mixture: Mixture, first_choice: int = 0
    ) -> list[Tensor]:
        """The nodes' states.

        Args:
            inputs: (N, C, H, W) each.
            mixture: of the whole space.
            first_choice: the choice of the first edge; the other edges' follow it.

        Returns:
            (N, C, OH, OW) each.
        """
        last_choice = first_choice + len(self.edges)
        edges = []
        for row, (source, target), mixed_op in zip(
            range(first_choice, last_choice), self.edges, self.mixed_ops, strict=True
        ):
            assert isinstance(mixed_op, MixedOp)
            edges.append(
                kernels.Edge(
                    source,
                    target,
                    mixed_op.described(),
                    mixed_op.stride,
                    mixture.active_options(row),
                )
            )
        return kernels.mixed_cell(
            inputs,
            mixture.weights[first_choice:last_choice, : len(edges[0].candidates)],
            edges,
            training=self.training,
            momentum=self.momentum,
            impl=self.impl,
            recompute=self.recompute,
        )


def use_kernels(supernet: nn.Module, impl: str, recompute: str) -> None:
    """Set how the cells of a supernet are computed.

    Args:
        supernet: any module with `MixedCell`s.
        impl, recompute: as for `hwnas.kernels.mixed_cell`.
    """
    for module in supernet.modules():
        if isinstance(module, MixedCell):
            module.impl = impl
            module.recompute = recompute


def _tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name; `named_parameters` takes longer than a small cell."""
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is not None:
                yield prefix + name, tensor
    for name, child in module._modules.items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")
