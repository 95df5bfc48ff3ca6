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
    layouts, vectors = [], []
    for _, tensors in candidates:
        kinds: tuple[dict[str, torch.Size], ...] = ({}, {})
        for key in sorted(tensors, key=lambda key: key.startswith("bn")):  # the plan's order
            if not key.endswith("num_batches_tracked"):
                kinds["running" in key][key] = tensors[key].shape
        layout = kernels.FlatLayout(*kinds, first_buffer=sum(map(len, vectors)))
        layouts.append(layout)
        vectors += [layout.buffers.joined(tensors).detach()] if layout.buffers else []
    statistics = torch.cat(vectors) if vectors else None
    copies = []
    for (name, tensors), layout in zip(candidates, layouts, strict=True):
        weights = layout.parameters.joined(tensors).detach() if layout.parameters else None
        weights = weights if weights is None else weights.requires_grad_()
        copies.append(kernels.Candidate(name, kernels.FlatTensors(layout, weights, statistics)))
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
