"""Candidate operators of a space, as modules and as the kernels are given them."""

from __future__ import annotations

import torch

from hwnas import kernels
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_op import build_candidate
from hwnas.spaces import darts, nasbench201

SPACES = {"darts": (darts.PRIMITIVES, True), "nasbench201": (nasbench201.PRIMITIVES, False)}


def candidates_of(
    space: str,
    channels: int,
    size: tuple[int, int],
    stride: int,
    dtype: torch.dtype = torch.float32,
):
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
