"""The public functions `mixed_op` and `mixed_cell`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hwnas.kernels.cell import Cell
from hwnas.kernels.plan import Edge
from hwnas.kernels.reference import Candidate


def mixed_op(
    x: Tensor,
    mixing_weights: Tensor,
    candidates: Sequence[Candidate],
    *,
    stride: int = 1,
    training: bool = True,
    momentum: float = 0.1,
    active: Sequence[int] | None = None,
    impl: str = "auto",
    recompute: str = "nothing",
    storage: str = "exact",
) -> Tensor:
    """Weighted sum of candidate operators, `sum_k mixing_weights[k] op_k(x)`.

    Args:
        x: (N, C, H, W) in any memory format.
        mixing_weights: (K,), one weight for each candidate; they need not sum to 1.
        candidates: the K operators. `none` is zero and is not computed.
        stride: 1 or 2, the same for all candidates.
        training: whether batch norms use the batch's statistics, and update the running ones in
            place. If false they use the running statistics.
        momentum: momentum of the running statistics, as in `torch.nn.BatchNorm2d`.
        active: indices of the candidates to evaluate; the others count as weight zero and get no
            gradient. None for all.
        impl: "torch" (plain PyTorch), "cpu" (C++), "triton" (CUDA), or "auto" for the fastest that
            supports this machine, these shapes and these operators.
        recompute: what the fused backward pass recomputes to save memory: "nothing", the "first"
            stages of convolutions, or "all" stages. Plain PyTorch ignores it.
        storage: "exact", or "bfloat16" to allow that the outputs of convolutions are stored in
            bfloat16, which halves the memory that they take. All arithmetic stays in float32. The
            result changes by less than 1 %, and gradients by some percent, since values near zero
            can fall on the other side of a ReLU. It has an effect in the C++ kernels for float32
            where gradients are needed, whatever `recompute` is; it has none in plain PyTorch, in
            Triton, in float64, without gradients, and under `torch.compile`, fake tensors and other
            dispatch modes.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)), in channels_last.

    Raises:
        ValueError: for an unknown `impl`, `recompute`, `storage` or operator, a stride that is not
            1 or 2, a number of weights that is not K, invalid `active`, or training with a single
            value for each channel.
        RuntimeError: when the requested `impl` cannot be used here.
    """
    edge = Edge(0, 1, candidates, stride, active)
    (node,) = mixed_cell(
        [x],
        mixing_weights.unsqueeze(0),
        [edge],
        training=training,
        momentum=momentum,
        impl=impl,
        recompute=recompute,
        storage=storage,
    )
    return node


def mixed_cell(
    inputs: Sequence[Tensor],
    mixing_weights: Tensor,
    edges: Sequence[Edge],
    *,
    training: bool = True,
    momentum: float = 0.1,
    impl: str = "auto",
    recompute: str = "nothing",
    storage: str = "exact",
) -> list[Tensor]:
    """The nodes of a cell: each is the sum of the mixed operators on the edges that lead to it.

    All edges out of a state are run together and share its ReLU, its pools and their statistics.

    Args:
        inputs: the cell's inputs, (N, C, H, W) each.
        mixing_weights: (E, K), a row for each edge.
        edges: the E edges. States are numbered, inputs first, then nodes; an edge leads to a node
            from a state with a smaller number.
        training: as for `mixed_op`.
        momentum: as for `mixed_op`.
        impl: as for `mixed_op`.
        recompute: as for `mixed_op`.
        storage: as for `mixed_op`.

    Returns:
        The nodes, (N, C, OH, OW) each, in channels_last.

    Raises:
        ValueError: as `mixed_op`, and for edges that do not form a cell.
        RuntimeError: when the requested `impl` cannot be used here.
    """
    return Cell(len(inputs), edges)(
        inputs,
        mixing_weights,
        training=training,
        momentum=momentum,
        impl=impl,
        recompute=recompute,
        storage=storage,
    )
