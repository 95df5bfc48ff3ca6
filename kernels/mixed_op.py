"""The public functions `mixed_op` and `mixed_cell`, and the choice of an implementation."""

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
from hwnas.kernels.transforms import active_transform
from hwnas.kernels.triton.layout import fits as fits_triton

IMPLEMENTATIONS = ("auto", "triton", "cpu", "torch")
"""What `impl` may be."""


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

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)), in channels_last.

    Raises:
        ValueError: for an unknown `impl`, `recompute` or operator, a stride that is not 1 or 2, a
            number of weights that is not K, invalid `active`, or training with a single value for
            each channel.
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

    Returns:
        The nodes, (N, C, OH, OW) each, in channels_last.

    Raises:
        ValueError: as `mixed_op`, and for edges that do not form a cell.
        RuntimeError: when the requested `impl` cannot be used here.
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
    """Raise a ValueError for arguments of `mixed_cell` that are invalid for any implementation."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute must be one of {', '.join(RECOMPUTE)}, got {recompute!r}")
    for edge in edges:
        if edge.stride not in (1, 2):
            raise ValueError(f"the stride of an edge must be 1 or 2, got {edge.stride}")
        expected = len(edges), len(edge.candidates)
        if mixing_weights.shape != expected:
            raise ValueError(
                f"mixing weights of {expected[0]} edges with {expected[1]} candidates must have "
                f"shape {expected}, got {tuple(mixing_weights.shape)}"
            )
        active = list(edge.active or ())
        if len(set(active)) < len(active) or not set(active) <= set(range(len(edge.candidates))):
            raise ValueError(
                f"active must list different indices below {len(edge.candidates)}, got {active}"
            )
        for candidate in edge.candidates:
            if candidate.name != "none" and candidate.name not in CANDIDATE_FUNCTIONS:
                raise ValueError(
                    f"unknown operator {candidate.name!r}: add its definition to "
                    "hwnas.kernels.CANDIDATE_FUNCTIONS"
                )
    first = len(inputs)
    targets = sorted({edge.target for edge in edges})
    if targets != list(range(first, first + len(targets))) or not edges:
        raise ValueError(
            f"the targets of the edges must be numbered from {first}, the number of inputs, "
            f"without gaps, got {targets}"
        )
    for edge in edges:
        if not 0 <= edge.source < edge.target:
            raise ValueError(
                f"an edge must lead to a node from a state before it, got one from {edge.source} "
                f"to {edge.target}"
            )
    sizes_of([(x.shape[2], x.shape[3]) for x in inputs], edges)


def choose_implementation(impl: str, inputs: Sequence[Tensor], edges: Sequence[Edge]) -> str:
    """The implementation to use. "auto" falls back to "torch" and warns once for each reason.

    Raises:
        RuntimeError: when the requested implementation cannot be used here.
    """
    if impl == "torch":
        return "torch"
    x = inputs[0]
    natural = "triton" if x.is_cuda else "cpu"
    asked = natural if impl == "auto" else impl
    reason = _unsupported(asked, inputs, edges)
    if reason is None:
        return asked
    if impl != "auto":
        raise RuntimeError(f"impl={impl!r} cannot be used: {reason}")
    _warn_once(f"mixed operators run in plain PyTorch: {reason}")
    return "torch"


def _unsupported(impl: str, inputs: Sequence[Tensor], edges: Sequence[Edge]) -> str | None:
    """Why an implementation cannot be used for a cell; None if it can."""
    x = inputs[0]
    transform = active_transform()
    if transform is not None:
        return f"there are no kernels for {transform}"
    if x.layout is not torch.strided:
        return f"no kernels for tensors with layout {x.layout}"
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
    reason: str | None = _unsupported_candidates(edges, x) or _loading_error(impl, dtype)
    return reason


def _unsupported_candidates(edges: Sequence[Edge], x: Tensor) -> str | None:
    """Why the fused kernels cannot run some candidate on states like x; None if they can."""
    channels = x.shape[1]
    for name in (candidate.name for edge in edges for _, candidate in edge.chosen()):
        if name not in FUSED:
            return f"no kernels for {name}"
    for candidate, name in tensors_of(edges)[0]:
        tensor = candidate.tensors[name]
        expected = parameter_shape(candidate.name, name, channels)
        if tensor.shape != expected:
            return (
                f"{candidate.name}: {name} is {tuple(tensor.shape)}, expected {expected} for "
                f"states of {channels} channels"
            )
        if tensor.device != x.device:
            return f"{candidate.name}: {name} is on {tensor.device}, the states on {x.device}"
    return None


def _loading_error(impl: str, dtype: torch.dtype) -> str | None:
    """Why a backend cannot be loaded, None if it can; `torch.compile` treats it as a constant."""
    return _cached_loading_error(impl, dtype)


# All that `torch.compiler.assume_constant_result` does. A call of it would import torch._dynamo,
# which takes longer than the import of everything else in this package.
vars(_loading_error)["_dynamo_marked_constant"] = True


@cache
def _cached_loading_error(impl: str, dtype: torch.dtype) -> str | None:
    from hwnas.kernels.operator import backend_for

    try:
        backend_for(impl, dtype)
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=5)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of activations inside the operator.

    It is autocast's type on CUDA under autocast, float32 for half precision on CPUs, and else the
    type of x.
    """
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
    """`mixed_cell` in plain PyTorch."""
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
    """`mixed_cell` by the kernels of a backend."""
    from hwnas.kernels.operator import mixed_cell_op, update_running_statistics

    dtype = compute_dtype(inputs[0])
    returned = inputs[0].dtype
    parameters, norms = tensors_of(edges)
    counts = _counts(inputs, edges)
    if training and norms and min(counts) < 2:
        raise ValueError("batch statistics need more than one value for each channel, got one")
    running = [c.tensors[f"{p}.running_{what}"] for what in ("mean", "var") for c, p in norms]
    tensors = [candidate.tensors[name].to(dtype) for candidate, name in parameters]
    weights = mixing_weights.to(torch.promote_types(dtype, torch.float32))
    save = torch.is_grad_enabled() and any(
        t.requires_grad for t in (*inputs, mixing_weights, *tensors)
    )
    description = CellPlan.describe(len(inputs), edges)
    if backend == "cpu" and not (
        torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
    ):
        from hwnas.kernels.cpu.cell import CellCall, run_cell

        call = CellCall(description, training, momentum, recompute, running)
        found = run_cell(call, [x.to(dtype) for x in inputs], weights, tensors)
        return [node.to(returned) for node in found]
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
    """N OH OW, the number of values of a channel, of each group of edges in the plan's order."""
    sizes = sizes_of([(x.shape[2], x.shape[3]) for x in inputs], edges)
    images = inputs[0].shape[0]
    return [
        images * -(-sizes[source][0] // stride) * -(-sizes[source][1] // stride)
        for source, stride in sorted({(edge.source, edge.stride) for edge in edges})
    ]
