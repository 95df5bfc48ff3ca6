"""Batch norms as rows of a table: how a row is computed from statistics, and differentiated.

Notation: z is a tensor before its batch norm, y = scale (z - mean) + shift the tensor after it,
g the gradient of the loss with respect to y, and dz the gradient with respect to z.

- Statistics of R tensors are (R, 2, C): mean and biased variance over N, H and W.
- A table of R batch norms is (R, 6, C); the rows of each norm are `MEAN` to `RESIDUAL`. The mean is
  subtracted first, since scale z + (shift - scale mean) loses accuracy when |mean| is much larger
  than the standard deviation. `RESIDUAL` is the rounding error of the stored mean, for which
  `SHIFT` already corrects.
- Sums of R terms are (R, 2, C): S = sum g and T = sum g (z - mean) over N, H and W.
- Coefficients of R terms are (R, 3, C): a, b and d of dz = a g + b (z - mean) + d.

README.md derives the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hwnas.kernels.plan import CellPlan
from hwnas.kernels.reference import BATCH_NORM_EPS

MEAN, SCALE, SHIFT, RSTD, VARIANCE, RESIDUAL = range(6)
"""Rows of a table; `RSTD` is 1 / sqrt(variance + eps)."""
TABLE_ROWS = 6


def fill_table(
    statistics: Tensor,
    gammas: Sequence[Tensor | None],
    betas: Sequence[Tensor | None],
    out: Tensor,
) -> None:
    """`Backend.normalise` in plain PyTorch, for all rows in order."""
    mean, variance = statistics[:, 0], statistics[:, 1]
    rstd = torch.rsqrt(variance + BATCH_NORM_EPS)
    residual = mean - mean.to(out.dtype)
    scale = rstd
    shift = -scale * residual
    if any(gamma is not None for gamma in gammas):
        scale = rstd * _stacked(gammas, 1.0, rstd)
        shift = _stacked(betas, 0.0, rstd) - scale * residual
    # The order is that of the constants `MEAN` to `RESIDUAL`.
    out.copy_(torch.stack((mean, scale, shift, rstd, variance, residual), dim=1))


def _stacked(vectors: Sequence[Tensor | None], default: float, like: Tensor) -> Tensor:
    """(R, C) of vectors, with the default where a vector is None or shorter than C."""
    stacked = torch.full_like(like, default)
    for row, vector in zip(stacked, vectors, strict=True):
        if vector is not None:
            row[: len(vector)] = vector
    return stacked


def gradients_of_terms(
    sums: Tensor, table: Tensor, weights: Tensor | None, count: int, batch: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`Backend.normalise_backward` in plain PyTorch, for all rows in order."""
    wide = torch.promote_types(sums.dtype, table.dtype)
    table = table.to(wide)
    s, t = sums[:, 0], sums[:, 1]
    scale, shift, rstd = table[:, SCALE], table[:, SHIFT], table[:, RSTD]
    weight: Tensor | float = 1.0 if weights is None else weights.to(wide).unsqueeze(1)
    centred = t - table[:, RESIDUAL] * s
    a = weight * scale
    spread = a / count if batch is None else a / count * batch.to(wide).unsqueeze(1)
    b = -spread * rstd.square() * centred
    d = -spread * s - b * table[:, RESIDUAL]
    coefficients = torch.stack((a.expand_as(b), b, d), dim=1)
    d_weight = (scale * t + shift * s).sum(dim=1)
    return coefficients, d_weight, weight * rstd * centred, weight * s


def batch_statistics(
    plan: CellPlan, tables: Sequence[Tensor], channels: int, count: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and unbiased variance of the batch, two lists in the order of the plan's norms.

    Args:
        plan: the cell.
        tables: the tables of the plan's groups.
        channels: number of channels without padding.
        count: N OH OW of each group.
    """
    means: list[Tensor] = [tables[0]] * plan.norms
    variances: list[Tensor] = [tables[0]] * plan.norms
    for group, table, pixels in zip(plan.groups, tables, count, strict=True):
        mean = (table[:, MEAN] + table[:, RESIDUAL])[:, :channels]
        variance = table[:, VARIANCE, :channels] * (pixels / (pixels - 1))
        for row, norm in enumerate(group.norms):
            means[norm.position], variances[norm.position] = mean[row], variance[row]
    return means, variances
