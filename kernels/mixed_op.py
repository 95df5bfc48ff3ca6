"""The one public call, and the choice of its implementation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hwnas.kernels.reference import CANDIDATE_FUNCTIONS, Candidate, Context
from hwnas.kernels.reference import mixed_op as reference_mixed_op

IMPLEMENTATIONS = ("auto", "torch")


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
) -> Tensor:
    """Weighted sum of candidate operators, `sum_k mixing_weights[k] op_k(x)`.

    Args:
        x: (N, C, H, W), any memory format; computed in channels_last.
        mixing_weights: (K,), one weight a candidate; need not sum to 1.
        candidates: the K operators. `none` is zero and costs nothing.
        stride: 1 or 2, the same for all candidates.
        training: batch statistics if true (the running ones are updated in place), else running.
        momentum: of the running statistics, as in `torch.nn.BatchNorm2d`.
        active: indices of the candidates to evaluate; the others count as weight zero and get no
            gradient. All of them by default.
        impl: "torch", or "auto" for the fastest that this machine and these shapes allow.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: for an unknown `impl`, a stride that is not 1 or 2, a weight for no candidate,
            or a candidate without a definition.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if stride not in (1, 2):
        raise ValueError(f"stride is 1 or 2, got {stride}")
    if mixing_weights.shape != (len(candidates),):
        raise ValueError(f"{len(candidates)} candidates, weights {tuple(mixing_weights.shape)}")
    for candidate in candidates:
        if candidate.name != "none" and candidate.name not in CANDIDATE_FUNCTIONS:
            raise ValueError(f"no definition of operator {candidate.name!r}")
    chosen = range(len(candidates)) if active is None else active
    return reference_mixed_op(
        x, mixing_weights, candidates, chosen, Context(stride, training, momentum)
    )
