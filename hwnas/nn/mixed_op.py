"""Mixed operators: weighted sums of the candidate operators of cells and of inverted bottlenecks.

`MixedCell` computes a whole cell of `MixedOp`s, `MixedBlocks` a choice between blocks that end in a
batch norm.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hwnas import kernels
from hwnas.architecture import Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_edge import MixedOp, named_tensors
from hwnas.nn.mixed_tokens import MixedTokens
from hwnas.ops import build
from hwnas.ops.mobile import MBConv
from hwnas.ops.parts import is_untouched


class FusedMixture(nn.Module):
    """A mixture that the operators of `hwnas.kernels` compute.

    Attributes:
        impl: passed to the operator, as for `hwnas.kernels.mixed_op`.
        recompute: which activations are recomputed in the backward pass to save memory; what the
            values mean is up to the class.
        storage: how a cell's outputs of convolutions may be stored, as for
            `hwnas.kernels.mixed_op`; other mixtures are stored exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.impl = "auto"
        self.recompute = "nothing"
        self.storage = "exact"

    def before_norm(
        self, block: nn.Module, compute: Callable[[Tensor], Tensor], x: Tensor
    ) -> Tensor:
        """A block's activations before its last batch norm.

        Unless `recompute` is "nothing", what is computed inside is computed again in the backward
        pass.

        Args:
            block: the block, whose running statistics are updated once.
            compute: what of it to compute.
            x: its input.
        """
        if self.recompute == "nothing" or not torch.is_grad_enabled():
            return compute(x)
        y: Tensor = checkpoint(
            compute,
            x,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: _checkpoint_contexts(block),
        )
        return y


class MixedCell(FusedMixture):
    """A cell in which every edge is a mixture, computed by `hwnas.kernels.Cell`.

    Args:
        edges: (source, target) of each edge; states are numbered from 0, the cell's inputs first.
        mixed_ops: one for each edge.

    Attributes:
        momentum: of the batch norms' running statistics.
        impl: passed to `hwnas.kernels.Cell`, and so are `recompute` and `storage`.
    """

    def __init__(self, edges: Sequence[tuple[int, int]], mixed_ops: Sequence[MixedOp]) -> None:
        super().__init__()
        self.edges = list(edges)
        self.mixed_ops = nn.ModuleList(mixed_ops)
        self.partial = mixed_ops[0].partial
        self.momentum = 0.1
        self._prepared: _Prepared | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy prepares its own cell, of its own tensors.
        return self.__dict__ | {"_prepared": None}

    def prepared(self) -> list[tuple[list[int], kernels.Cell]]:
        """The kernels' cells, with the rows of the edges that each of them has.

        One cell has all edges, unless only a part of the channels is mixed: then the bypass is
        added between the edges, so there is a cell for each source, with a node for each edge.
        """
        if self._prepared is None or self._prepared.is_outdated():
            edges = [
                kernels.Edge(source, target, mixed_op.kernel_candidates(), mixed_op.stride)
                for (source, target), mixed_op in zip(self.edges, self._mixed_ops(), strict=True)
            ]
            first = min(target for _, target in self.edges)
            cells = [(list(range(len(edges))), kernels.Cell(first, edges))]
            if self.partial > 1:
                cells = []
                for source in range(max(target for _, target in self.edges)):
                    rows = [row for row, edge in enumerate(edges) if edge.source == source]
                    star = [
                        edges[row]._replace(source=0, target=1 + i) for i, row in enumerate(rows)
                    ]
                    cells.append((rows, kernels.Cell(1, star)))
            self._prepared = _Prepared(self.mixed_ops, cells)
        return self._prepared.cells

    def _mixed_ops(self) -> list[MixedOp]:
        return [m for m in self.mixed_ops if isinstance(m, MixedOp)]

    def forward(
        self, inputs: Sequence[Tensor], mixture: Mixture, first_choice: int = 0
    ) -> list[Tensor]:
        """Compute the states of all nodes.

        Args:
            inputs: the cell's inputs, (N, C, H, W) each.
            mixture: of the whole space.
            first_choice: the row of the first edge's choice; those of the other edges follow.

        Returns:
            The state of each node, (N, C, OH, OW) each.
        """
        count, options = len(self.edges), len(self._mixed_ops()[0].layouts)
        weights = mixture.weights[first_choice:, :options][:count]
        active = [mixture.active_options(first_choice + row) for row in range(count)]
        if self.partial > 1:
            return self._partly_mixed(inputs, weights, active)
        ((_, cell),) = self.prepared()
        return self._run(cell, inputs, weights, active)

    def _run(
        self,
        cell: kernels.Cell,
        inputs: Sequence[Tensor],
        weights: Tensor,
        active: Sequence[Sequence[int] | None],
    ) -> list[Tensor]:
        return cell(
            inputs,
            weights,
            active=active,
            training=self.training,
            momentum=self.momentum,
            impl=self.impl,
            recompute=self.recompute,
            storage=self.storage,
        )

    def _partly_mixed(
        self, inputs: Sequence[Tensor], weights: Tensor, active: Sequence[Sequence[int] | None]
    ) -> list[Tensor]:
        """Mix 1 of `partial` channels of each state, let the others bypass, and shuffle them all.

        Partial channel connections: Xu et al., "PC-DARTS", ICLR 2020, section 3.2. The channels
        that bypass an edge are weighted by the sum of its weights without that of `none`, so that
        an edge that takes `none` passes nothing.
        """
        states, sums = list(inputs), dict[int, Tensor]()
        names = list(self._mixed_ops()[0].layouts)
        strength = sum(weights[:, k] for k, name in enumerate(names) if name != "none")
        assert isinstance(strength, Tensor)
        for source, (rows, cell) in enumerate(self.prepared()):
            if source >= len(states):
                states.append(sums[source])
            share = states[source].shape[1] // self.partial
            mixed_part, bypass = states[source][:, :share], states[source][:, share:]
            if cell.edges[0].stride == 2:
                bypass = F.max_pool2d(bypass, 2, ceil_mode=True)
            of_rows = [active[row] for row in rows]
            outputs = self._run(cell, [mixed_part], chosen(weights, rows), of_rows)
            for row, mixed in zip(rows, outputs, strict=True):
                joined = torch.cat((mixed, strength[row] * bypass), dim=1)
                y = F.channel_shuffle(joined, self.partial)
                target = self.edges[row][1]
                sums[target] = sums[target] + y if target in sums else y
        return [sums[target] for target in sorted(sums)]


class _Prepared:
    """Cells of the kernels, and the modules and tensors that they were made of.

    Args:
        module: everything that the cells are made of.
        cells: the cells, each with the rows of its edges.
    """

    def __init__(self, module: nn.Module, cells: list[tuple[list[int], kernels.Cell]]) -> None:
        self.cells = cells
        # These show later changes of the modules' own tables.
        self._contents = [
            table.values()
            for part in module.modules()
            for table in (part._parameters, part._buffers, part._modules)
            if table
        ]
        self._known = list(chain.from_iterable(self._contents))

    def is_outdated(self) -> bool:
        """Whether a module or tensor has been replaced by another since."""
        now = list(chain.from_iterable(self._contents))
        return len(now) != len(self._known) or not all(map(operator.is_, now, self._known))


class MixedBlocks(FusedMixture):
    """A choice between inverted bottlenecks, and possibly the identity.

    PyTorch computes the blocks up to their last batch norms; `hwnas.kernels.weighted_norms`
    computes these batch norms and the weighted sum. Only the active options of a mixture are
    computed, so that a single path needs the memory of one network.

    Args:
        specs: one operator for each option, in the order of the options; `skip_connect` is the
            identity.

    Attributes:
        momentum: of the running statistics of the last batch norms.
        impl: passed to `hwnas.kernels.weighted_norms`.
        recompute: unless it is "nothing", the blocks' hidden activations are recomputed in the
            backward pass; only their inputs and the inputs of the last batch norms are stored.
    """

    def __init__(self, specs: Sequence[OpSpec]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(build(spec, affine=False) for spec in specs)
        self.momentum = 0.1

    def forward(self, x: Tensor, mixture: Mixture, choice: int) -> Tensor:
        """The weighted sum of the options, (N, c_in, H, W) to (N, c_out, OH, OW).

        Args:
            x: input.
            mixture: of the whole space.
            choice: the row of this choice.
        """
        weights = mixture.weights[choice]
        active = mixture.active_options(choice)
        options = range(len(self.candidates)) if active is None else active
        blocks = {k: block for k in options if isinstance(block := self.candidates[k], MBConv)}
        with_identity = [k for k in options if k not in blocks or blocks[k].residual]
        out = self._normed_sum(x, weights, blocks) if blocks else None
        if with_identity:
            identity = chosen(weights, with_identity).sum().to(x.dtype) * x
            out = identity if out is None else out + identity
        assert out is not None
        return out

    def _normed_sum(self, x: Tensor, weights: Tensor, blocks: dict[int, MBConv]) -> Tensor:
        norms = [dict(named_tensors(block.bn3)) for block in blocks.values()]
        return kernels.weighted_norms(
            [self.before_norm(block, block.before_norm, x) for block in blocks.values()],
            chosen(weights, list(blocks)),
            [norm["running_mean"] for norm in norms],
            [norm["running_var"] for norm in norms],
            training=self.training,
            momentum=self.momentum,
            impl=self.impl,
        )


def chosen(weights: Tensor, rows: Sequence[int]) -> Tensor:
    """`weights[rows]`, without a copy of the indices to a GPU at every call."""
    return torch.stack([weights[row] for row in rows])


def _checkpoint_contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for the forward pass and for its recomputation in the backward pass.

    The recomputation must not update the running statistics a second time.
    """

    @contextmanager
    def frozen_statistics() -> Iterator[None]:
        norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield  # the recomputation ends by an exception as soon as it has all activations
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    return nullcontext(), frozen_statistics()


def preprocess(module: nn.Module, x: Tensor, impl: str) -> Tensor:
    """`module(x)`: what brings a state to the channels of a cell.

    A ReLU and a pointwise convolution in front of a norm are one operator of `hwnas.kernels`.

    Args:
        module: as `hwnas.ops.build` returns it.
        x: (N, C, H, W).
        impl: of the cell; only "torch" matters, as there may be no kernel for these channels.
    """
    fits = impl != "torch" and is_untouched(module, nn.Sequential)
    match list(module.children()) if fits else []:
        case [nn.ReLU() as relu, nn.Conv2d() as conv, norm] if _is_relu_pointwise(relu, conv):
            y: Tensor = norm(kernels.relu_pointwise(x, conv.weight))
        case _:
            y = module(x)
    return y


def _is_relu_pointwise(relu: nn.ReLU, conv: nn.Conv2d) -> bool:
    """Whether two layers are what `kernels.relu_pointwise` computes."""
    plain = is_untouched(relu, nn.ReLU) and is_untouched(conv, nn.Conv2d)
    alone = conv.padding == (0, 0) and conv.groups == 1 and conv.bias is None
    return plain and alone and conv.kernel_size == (1, 1) and conv.stride == (1, 1)


def use_kernels(supernet: nn.Module, impl: str, recompute: str, storage: str = "exact") -> None:
    """Set the implementation of the mixed operators of a supernet.

    Args:
        supernet: a module that may contain `FusedMixture` and `MixedTokens`.
        impl: of `hwnas.kernels.mixed_cell`; `MixedTokens` always run in PyTorch.
        recompute: of `hwnas.kernels.mixed_cell`.
        storage: of `hwnas.kernels.mixed_cell`.
    """
    for module in supernet.modules():
        if isinstance(module, FusedMixture):
            module.impl = impl
            module.storage = storage
        if isinstance(module, FusedMixture | MixedTokens):
            module.recompute = recompute


def release_memory() -> None:
    """Free the memory that the fused operators keep for their next call."""
    kernels.release_memory()
