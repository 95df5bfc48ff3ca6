"""The public calls, and the choice of their implementation."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from hwnas.kernels.fused import RECOMPUTE
from hwnas.kernels.plan import FUSED, CellPlan, Edge, parameter_shape, sizes_of, tensors_of
from hwnas.kernels.reference import CANDIDATE_FUNCTIONS, Candidate, Context
from hwnas.kernels.reference import mixed_op as reference_mixed_op
from hwnas.kernels.triton.layout import fits as fits_triton

IMPLEMENTATIONS = ("auto", "triton", "cpu", "torch")


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
        impl: "torch" (plain PyTorch), "cpu" (C++), "triton" (CUDA), or "auto" for the fastest that
            this machine and these shapes allow.
        recompute: what the fused backward pass computes again to save memory: "nothing", "first"
            stages of convolutions, or "all". Plain PyTorch ignores it.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: for an unknown `impl` or `recompute`, a stride that is not 1 or 2, a weight for
            no candidate, a candidate without a definition, or one value a channel when training.
        RuntimeError: when the `impl` that was asked for can't be used here.
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
) -> list[Tensor]:
    """The nodes of a cell: each the sum of the mixed operators on the edges that lead to it.

    All edges out of a state are run together and share its ReLU, its pools and their statistics.

    Args:
        inputs: (N, C, H, W) each.
        mixing_weights: (E, K), a row for each edge.
        edges: states are numbered, inputs first; an edge leads to a node from a state before it.
        training, momentum, impl, recompute: as for `mixed_op`.

    Returns:
        The nodes, (N, C, OH, OW) each, channels_last.

    Raises:
        ValueError: as `mixed_op`; also for edges that don't make a cell.
        RuntimeError: when the `impl` that was asked for can't be used here.
    """
    _validate(inputs, mixing_weights, edges, impl, recompute)
    chosen = choose_implementation(impl, inputs, edges)
    if chosen == "torch":
        return _reference_cell(inputs, mixing_weights, edges, training, momentum)
    return _fused_cell(inputs, mixing_weights, edges, training, momentum, chosen, recompute)


def _validate(
    inputs: Sequence[Tensor],
    mixing_weights: Tensor,
    edges: Sequence[Edge],
    impl: str,
    recompute: str,
) -> None:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute is one of {', '.join(RECOMPUTE)}, got {recompute!r}")
    for edge in edges:
        if edge.stride not in (1, 2):
            raise ValueError(f"stride is 1 or 2, got {edge.stride}")
        if mixing_weights.shape != (len(edges), len(edge.candidates)):
            expected = f"{len(edges)} x {len(edge.candidates)} candidates"
            raise ValueError(f"{expected}, weights {tuple(mixing_weights.shape)}")
        active = list(edge.active or ())
        if len(set(active)) < len(active) or not set(active) <= set(range(len(edge.candidates))):
            raise ValueError(
                f"active lists some of {len(edge.candidates)} candidates, got {active}"
            )
        for candidate in edge.candidates:
            if candidate.name != "none" and candidate.name not in CANDIDATE_FUNCTIONS:
                raise ValueError(f"no definition of operator {candidate.name!r}")
    first = len(inputs)
    targets = sorted({edge.target for edge in edges})
    if targets != list(range(first, first + len(targets))) or not edges:
        raise ValueError(f"nodes are numbered from {first} without gaps, got {targets}")
    if any(not 0 <= edge.source < edge.target for edge in edges):
        raise ValueError("an edge leads to a node from a state before it")
    sizes_of([(x.shape[2], x.shape[3]) for x in inputs], edges)


def choose_implementation(impl: str, inputs: Sequence[Tensor], edges: Sequence[Edge]) -> str:
    """The implementation to use; "auto" falls back to "torch" and says so once.

    Raises:
        RuntimeError: when the one that was asked for can't be used here.
    """
    if impl == "torch":
        return "torch"
    x = inputs[0]
    natural = "triton" if x.is_cuda else "cpu"
    asked = natural if impl == "auto" else impl
    reason = _obstacle(asked, inputs, edges)
    if reason is None:
        return asked
    if impl != "auto":
        raise RuntimeError(f"impl={impl!r} can't be used: {reason}")
    _say_once(f"mixed operators run in plain PyTorch: {reason}")
    return "torch"


def _obstacle(impl: str, inputs: Sequence[Tensor], edges: Sequence[Edge]) -> str | None:
    """Why an implementation can't be used, or None."""
    x = inputs[0]
    dtype = compute_dtype(x)
    allowed = {
        "cpu": (torch.float32, torch.float64),
        "triton": (torch.float32, torch.float16, torch.bfloat16),
    }[impl]
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if x.device.type != ("cuda" if impl == "triton" and not interpreted else "cpu"):
        return f"the tensors are on {x.device.type}"
    if dtype not in allowed:
        return f"no kernels for {dtype}"
    for state in inputs:
        if state.shape[:2] != x.shape[:2] or state.device != x.device or state.dtype != x.dtype:
            return "the inputs differ in batch, channels, type or device"
    channels = x.shape[1]
    pixels = max(state.shape[0] * state.shape[2] * state.shape[3] for state in inputs)
    if channels * pixels == 0:
        return "the inputs are empty"
    if impl == "triton" and not fits_triton(channels, pixels):
        return f"no kernels for {channels} channels of {pixels} pixels"
    for name in (candidate.name for edge in edges for _, candidate in edge.chosen()):
        if name not in FUSED:
            return f"no kernels for {name}"
    for candidate, name in tensors_of(edges)[0]:
        tensor = candidate.tensors[name]
        if tensor.shape != parameter_shape(candidate.name, name, channels):
            shape = tuple(tensor.shape)
            return f"{candidate.name}: {name} is {shape}, the states have {channels} channels"
        if tensor.device != x.device:
            return f"{candidate.name}: {name} is on {tensor.device}, the states on {x.device}"
    return _unavailable(impl, dtype)


@torch.compiler.assume_constant_result
def _unavailable(impl: str, dtype: torch.dtype) -> str | None:
    """Why a backend can't be loaded, or None; a constant to `torch.compile`."""
    return _loading_error(impl, dtype)


@cache
def _loading_error(impl: str, dtype: torch.dtype) -> str | None:
    from hwnas.kernels.operator import backend_for

    try:
        backend_for(impl, dtype)
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


@cache
def _say_once(message: str) -> None:
    warnings.warn(message, stacklevel=5)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of activations: autocast's on CUDA, else that of x, at least float32 on CPUs."""
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return x.dtype


def _reference_cell(
    inputs: Sequence[Tensor],
    mixing_weights: Tensor,
    edges: Sequence[Edge],
    training: bool,
    momentum: float,
) -> list[Tensor]:
    states: list[Tensor] = list(inputs)
    for target in sorted({edge.target for edge in edges}):
        total: Tensor | None = None
        for row, edge in enumerate(edges):
            if edge.target != target:
                continue
            active = range(len(edge.candidates)) if edge.active is None else edge.active
            context = Context(edge.stride, training, momentum)
            mixed = reference_mixed_op(
                states[edge.source], mixing_weights[row], edge.candidates, active, context
            )
            total = mixed if total is None else total + mixed
        assert total is not None
        states.append(total)
    return states[len(inputs) :]


def _fused_cell(
    inputs: Sequence[Tensor],
    mixing_weights: Tensor,
    edges: Sequence[Edge],
    training: bool,
    momentum: float,
    backend: str,
    recompute: str,
) -> list[Tensor]:
    from hwnas.kernels.operator import mixed_cell_op, update_running_statistics

    dtype = compute_dtype(inputs[0])
    returned = inputs[0].dtype
    parameters, norms = tensors_of(edges)
    counts = _counts(inputs, edges)
    if training and norms and min(counts) < 2:
        raise ValueError("batch statistics need more than one value a channel")
    running = [c.tensors[f"{p}.running_{what}"] for what in ("mean", "var") for c, p in norms]
    tensors = [candidate.tensors[name].to(dtype) for candidate, name in parameters]
    weights = mixing_weights.to(torch.promote_types(dtype, torch.float32))
    save = torch.is_grad_enabled() and any(
        t.requires_grad for t in (*inputs, mixing_weights, *tensors)
    )
    description = CellPlan.describe(len(inputs), edges)
    outputs = mixed_cell_op(
        [x.to(dtype) for x in inputs],
        weights,
        tensors,
        [] if training else [t.to(dtype) for t in running],
        description,
        backend,
        recompute,
        save,
    )
    nodes = len({edge.target for edge in edges})
    if training:
        update_running_statistics(
            running, outputs[nodes : nodes + len(counts)], description, counts, momentum
        )
    return [node.to(returned) for node in outputs[:nodes]]


def _counts(inputs: Sequence[Tensor], edges: Sequence[Edge]) -> list[int]:
    """Values of a channel, N OH OW, of each group of edges, in the plan's order."""
    sizes = sizes_of([(x.shape[2], x.shape[3]) for x in inputs], edges)
    images = inputs[0].shape[0]
    return [
        images * -(-sizes[source][0] // stride) * -(-sizes[source][1] // stride)
        for source, stride in sorted({(edge.source, edge.stride) for edge in edges})
    ]
