"""Candidate operators of a search space, as modules and as `hwnas.kernels.Candidate`s."""

from __future__ import annotations

import dataclasses

import torch

from hwnas import kernels
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_edge import MixedOp
from hwnas.ops import build_candidate
from hwnas.spaces import darts, nasbench201

# Candidates, and whether their pools have batch norms.
SPACES = {"darts": (darts.PRIMITIVES, True), "nasbench201": (nasbench201.PRIMITIVES, False)}


def modules_of(mixed_op: MixedOp) -> dict[str, torch.nn.Module]:
    """Modules with copies of the tensors of a mixed operator, by candidate."""
    modules = {}
    for spec, (name, tensors) in zip(mixed_op.specs, mixed_op.kernel_candidates(), strict=True):
        channels = spec.c_in // mixed_op.partial
        module = build_candidate(
            dataclasses.replace(spec, c_in=channels, c_out=channels),
            normalise_pools=mixed_op.normalise_pools,
        )
        for own in tensors.values():
            module.to(own.dtype)
        module.load_state_dict(dict(tensors), strict=False)
        modules[name] = module.train(mixed_op.training)
    return modules


def flat(candidates: list[kernels.Candidate]) -> list[kernels.Candidate]:
    """Copies of the candidates of an edge whose tensors are flat, as those of a `MixedOp`."""
    statistics = {
        (k, name): tensor.detach()
        for k, candidate in enumerate(candidates)
        for name, tensor in candidate.tensors.items()
        if name.endswith((".running_mean", ".running_var"))
    }
    rows = list(dict.fromkeys((k, name.rpartition(".")[0]) for k, name in statistics))
    running = None
    if rows:
        running = torch.stack([
            torch.stack([statistics[k, f"{prefix}.{kind}"] for k, prefix in rows])
            for kind in ("running_mean", "running_var")
        ])  # fmt: skip
    copies = []
    for k, (name, tensors) in enumerate(candidates):
        weights = {n: t for n, t in tensors.items() if n.endswith((".weight", ".bias"))}
        weights = dict(sorted(weights.items(), key=lambda item: item[0].startswith("bn")))
        norms = {prefix: row for row, (of, prefix) in enumerate(rows) if of == k}
        layout = kernels.FlatLayout({n: t.shape for n, t in weights.items()}, norms)
        vector = layout.joined(weights).detach().requires_grad_() if weights else None
        copies.append(kernels.Candidate(name, kernels.FlatTensors(layout, vector, running)))
    return copies


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
