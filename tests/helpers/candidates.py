"""Candidate operators of a search space, as modules and as `hwnas.kernels.Candidate`s."""

from __future__ import annotations

import torch

from hwnas import kernels
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_op import build_candidate
from hwnas.spaces import darts, nasbench201

# Candidates, and whether their pools have batch norms.
SPACES = {"darts": (darts.PRIMITIVES, True), "nasbench201": (nasbench201.PRIMITIVES, False)}


def candidates_of(
    space: str,
    channels: int,
    size: tuple[int, int],
    stride: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[torch.nn.Module], list[kernels.Candidate]]:
    """All candidates of a space; the tensors of both forms are the same.

    Args:
        space: `darts` or `nasbench201`.
        channels: number of input and output channels.
        size: (height, width) of the input.
        stride: 1 or 2.
        dtype: type of parameters and buffers.
    """
    primitives, normalise = SPACES[space]
    modules = [
        build_candidate(
            OpSpec(name, channels, channels, *size, stride), normalise_pools=normalise
        ).to(dtype)
        for name in primitives
    ]
    described = [
        kernels.Candidate(n, dict(m.named_parameters()) | dict(m.named_buffers()))
        for n, m in zip(primitives, modules, strict=True)
    ]
    return modules, described
