"""A cell as a function of autograd, computed by one call of a backend for each pass.

The operator `hwnas::mixed_cell` computes the same, kernel by kernel. It is what compilers and fake
tensors need, but each call of it costs more than the arithmetic of a small cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hwnas.kernels.held import Held, Places
from hwnas.kernels.plan import CellPlan
from hwnas.kernels.saved_tensors import SavedTensors, refuse_second_derivatives
from hwnas.kernels.transforms import refuse_batched


class CellCall(NamedTuple):
    """What a call of a cell is besides its tensors.

    Attributes:
        description: of the cell, as `CellPlan.describe` returns it.
        training: whether to use the batch's statistics and to update the running ones.
        momentum: of the running statistics.
        recompute: one of `RECOMPUTE`.
        storage: one of `STORAGE`.
        places: where the parameters lie in the tensors that hold them.
        running: running means and variances; None in the backward pass.
    """

    description: str
    training: bool
    momentum: float
    recompute: str
    storage: str
    places: Places
    running: Held | None


class Passes(Protocol):
    """Both passes through a cell."""

    def forward(
        self,
        call: CellCall,
        inputs: Sequence[Tensor],
        weights: Tensor,
        parameters: Sequence[Tensor],
        *,
        save: bool,
    ) -> tuple[list[Tensor], Tensor]:
        """Nodes, and the workspace that the backward pass reads if `save`."""

    def backward(
        self,
        call: CellCall,
        counts: tuple[int, int],
        needed: Sequence[bool],
        saved: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
    ) -> list[Tensor | None]:
        """Gradients of the inputs, the weights and what holds parameters, None where not needed.

        Args:
            call: as for `forward`.
            counts: numbers of inputs and of tensors that hold parameters.
            needed: for each of these tensors, whether its gradient is needed.
            saved: these tensors, then the nodes that edges read, then the workspace.
            gradients: of the nodes, None for zero.
        """


def run_cell(
    passes: Passes,
    call: CellCall,
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
) -> Sequence[Tensor]:
    """The nodes of a cell, (N, C, OH, OW) each, in channels_last.

    Args:
        passes: what computes them.
        call: everything else.
        inputs: (N, C, H, W) each, in the type of the computation, as all tensors.
        weights: mixing weights, (edges, options).
        parameters: what holds the parameters.
    """
    tensors = (*inputs, weights, *parameters)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        apply: Callable[..., Sequence[Tensor]] = _CellFunction.apply
        return apply(passes, call, len(inputs), *tensors)
    nodes, _ = passes.forward(call, inputs, weights, parameters, save=False)
    return nodes


class _CellFunction(torch.autograd.Function):
    """A cell with its first derivatives."""

    @staticmethod
    def forward(
        ctx: Any, passes: Passes, call: CellCall, inputs: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        states, weights, parameters = split(tensors, inputs)
        nodes, kept = passes.forward(call, states, weights, parameters, save=True)
        plan = CellPlan.of(call.description)
        read = [nodes[i - plan.inputs] for i in sorted(plan.sources) if i >= plan.inputs]
        ctx.passes, ctx.call = passes, call._replace(running=None)
        ctx.counts = inputs, len(parameters)
        ctx.saved = SavedTensors(ctx, [*tensors, *read, kept], inputs)
        return tuple(nodes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        refuse_batched(gradients)
        saved = ctx.saved.of(ctx)
        needed = ctx.needs_input_grad[3:]
        results: Sequence[Tensor | None]
        if torch.is_grad_enabled():
            apply: Callable[..., Sequence[Tensor | None]] = _GradientFunction.apply
            results = apply(ctx.passes, ctx.call, ctx.counts, needed, *saved, *gradients)
        else:
            results = ctx.passes.backward(ctx.call, ctx.counts, needed, saved, gradients)
        return None, None, None, *results


class _GradientFunction(torch.autograd.Function):
    """The first derivatives of a cell, as results that depend on its tensors (`create_graph`)."""

    @staticmethod
    def forward(
        ctx: Any,
        passes: Passes,
        call: CellCall,
        counts: tuple[int, int],
        needed: Sequence[bool],
        *tensors: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        nodes = CellPlan.of(call.description).nodes
        saved: Any = tensors[:-nodes]
        return tuple(passes.backward(call, counts, needed, saved, tensors[-nodes:]))

    backward = staticmethod(refuse_second_derivatives)


def split(
    tensors: Sequence[Tensor], inputs: int
) -> tuple[Sequence[Tensor], Tensor, Sequence[Tensor]]:
    """Inputs, mixing weights, and the rest."""
    return tensors[:inputs], tensors[inputs], tensors[inputs + 1 :]
