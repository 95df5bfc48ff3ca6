"""A cell of mixed operators, prepared once for all its calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hwnas.kernels.choice import IMPLEMENTATIONS, choose_implementation, compute_dtype
from hwnas.kernels.fused import RECOMPUTE, STORAGE
from hwnas.kernels.held import held_tensors, separate_parameters
from hwnas.kernels.plan import FUSED, CellPlan, Edge, sizes_of
from hwnas.kernels.reference import CANDIDATE_FUNCTIONS, Context
from hwnas.kernels.reference import mixed_op as reference_mixed_op
from hwnas.kernels.transforms import is_traced

if TYPE_CHECKING:
    from hwnas.kernels.function import Passes

Active = Sequence[Sequence[int] | None]
"""For each edge the candidates to evaluate, None for all."""

SELECTIONS = 64
"""Sets of active candidates of a cell whose preparation is kept."""


class Cell:
    """The cell of `hwnas.kernels.mixed_cell` whose edges and candidates stay the same.

    What does not depend on the tensors of a call is prepared once for each set of active
    candidates, which saves more than half of the time that Python needs for a call.

    Args:
        inputs: number of input states.
        edges: as for `hwnas.kernels.mixed_cell`. Their tensors must not be replaced by other
            tensor objects; their values, shapes, types and devices may change.

    Raises:
        ValueError: for edges that do not form a cell, an unknown operator, a stride that is not 1
            or 2, or invalid `active`.
    """

    def __init__(self, inputs: int, edges: Sequence[Edge]) -> None:
        _validate_edges(inputs, edges)
        self.inputs = inputs
        self.edges = list(edges)
        self.nodes = len({edge.target for edge in edges})
        self._active = tuple(_hashable(edge.active) for edge in edges)
        self._selections: dict[Active, Selection] = {}
        self._checked_sizes: set[tuple[tuple[int, int], ...]] = set()

    def __call__(
        self,
        inputs: Sequence[Tensor],
        mixing_weights: Tensor,
        *,
        active: Active | None = None,
        training: bool = True,
        momentum: float = 0.1,
        impl: str = "auto",
        recompute: str = "nothing",
        storage: str = "exact",
    ) -> list[Tensor]:
        """The nodes, as `hwnas.kernels.mixed_cell` returns them.

        Args:
            inputs: as for `hwnas.kernels.mixed_cell`, and so are the other arguments.
            mixing_weights: (E, K).
            active: takes the place of `Edge.active`; None to leave it as it is.
            training: whether to use the batch's statistics.
            momentum: of the running statistics.
            impl: one of `IMPLEMENTATIONS`.
            recompute: one of `RECOMPUTE`.
            storage: one of `STORAGE`.

        Raises:
            ValueError: as `hwnas.kernels.mixed_cell`.
            RuntimeError: when the requested `impl` cannot be used here.
        """
        self._validate(inputs, mixing_weights, impl, recompute, storage)
        selection = self.selection(active)
        chosen = choose_implementation(impl, inputs, selection.misfit)
        if chosen == "torch":
            return _reference(inputs, mixing_weights, selection.edges, training, momentum)
        return _fused(
            inputs, mixing_weights, selection, self.nodes, training, momentum, chosen, recompute,
            storage,
        )  # fmt: skip

    def selection(self, active: Active | None) -> Selection:
        """The cell with some active candidates, prepared at the first call."""
        key = self._active if active is None else tuple(map(_hashable, active))
        if key not in self._selections:
            if len(self._selections) >= SELECTIONS:
                self._selections.clear()
            edges = self.edges
            if active is not None:
                edges = [e._replace(active=a) for e, a in zip(edges, key, strict=True)]
                _validate_active(edges)
            self._selections[key] = Selection(self.inputs, edges)
        return self._selections[key]

    def _validate(
        self, inputs: Sequence[Tensor], weights: Tensor, impl: str, recompute: str, storage: str
    ) -> None:
        """Raise a ValueError for arguments that are invalid for any implementation."""
        for name, given, known in (
            ("impl", impl, IMPLEMENTATIONS),
            ("recompute", recompute, RECOMPUTE),
            ("storage", storage, STORAGE),
        ):
            if given not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {given!r}")
        if len(inputs) != self.inputs:
            raise ValueError(f"the cell has {self.inputs} inputs, got {len(inputs)}")
        for edge in self.edges:
            expected = len(self.edges), len(edge.candidates)
            if weights.shape != expected:
                raise ValueError(
                    f"mixing weights of {expected[0]} edges with {expected[1]} candidates must "
                    f"have shape {expected}, got {tuple(weights.shape)}"
                )
        sizes = tuple((x.shape[2], x.shape[3]) for x in inputs)
        if torch.compiler.is_compiling():
            sizes_of(sizes, self.edges)
        elif sizes not in self._checked_sizes:
            sizes_of(sizes, self.edges)
            self._checked_sizes.add(sizes)


class Selection:
    """A cell with its active candidates.

    Args:
        inputs: number of input states.
        edges: with the active candidates.

    Attributes:
        edges: as given.
        description: of the structure, as `CellPlan.describe` returns it.
        parameters: of the cell.
        running: means and variances of the cell.
        groups: (source, stride) of the plan's groups.
    """

    def __init__(self, inputs: int, edges: Sequence[Edge]) -> None:
        self.edges = edges
        self.description = CellPlan.describe(inputs, edges)
        names = [candidate.name for edge in edges for _, candidate in edge.chosen()]
        self._unknown = next((name for name in names if name not in FUSED), None)
        known = edges if self._unknown is None else []
        self.parameters, self.running = held_tensors(known)
        self.groups = sorted({(edge.source, edge.stride) for edge in edges})
        self._counted: dict[tuple[tuple[int, int], ...], list[int]] = {}

    def misfit(self, x: Tensor) -> str | None:
        """Why the fused kernels cannot run the candidates on states like x; None if they can."""
        if self._unknown is not None:
            return f"no kernels for {self._unknown}"
        channels, device = x.shape[1], x.device
        return self.parameters.misfit(channels, device) or self.running.misfit(channels, device)

    def counts(self, inputs: Sequence[Tensor]) -> list[int]:
        """N OH OW, the number of values of a channel, of each group of the plan."""
        images, spatial = inputs[0].shape[0], tuple((x.shape[2], x.shape[3]) for x in inputs)
        if torch.compiler.is_compiling():
            return [images * pixels for pixels in self._pixels(spatial)]
        if spatial not in self._counted:
            self._counted[spatial] = self._pixels(spatial)
        return [images * pixels for pixels in self._counted[spatial]]

    def _pixels(self, spatial: Sequence[tuple[int, int]]) -> list[int]:
        """OH OW of each group of the plan."""
        sizes = sizes_of(spatial, self.edges)
        return [
            -(-sizes[source][0] // stride) * -(-sizes[source][1] // stride)
            for source, stride in self.groups
        ]


def _hashable(active: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if active is None else tuple(active)


def _validate_edges(inputs: int, edges: Sequence[Edge]) -> None:
    """Raise a ValueError for edges that do not form a cell."""
    for edge in edges:
        if edge.stride not in (1, 2):
            raise ValueError(f"the stride of an edge must be 1 or 2, got {edge.stride}")
        for candidate in edge.candidates:
            if candidate.name != "none" and candidate.name not in CANDIDATE_FUNCTIONS:
                raise ValueError(
                    f"unknown operator {candidate.name!r}: add its definition to "
                    "hwnas.kernels.CANDIDATE_FUNCTIONS"
                )
    _validate_active(edges)
    targets = sorted({edge.target for edge in edges})
    if targets != list(range(inputs, inputs + len(targets))) or not edges:
        raise ValueError(
            f"the targets of the edges must be numbered from {inputs}, the number of inputs, "
            f"without gaps, got {targets}"
        )
    for edge in edges:
        if not 0 <= edge.source < edge.target:
            raise ValueError(
                f"an edge must lead to a node from a state before it, got one from {edge.source} "
                f"to {edge.target}"
            )


def _validate_active(edges: Sequence[Edge]) -> None:
    """Raise a ValueError for active candidates that are listed twice or do not exist."""
    for edge in edges:
        active = list(edge.active or ())
        if len(set(active)) < len(active) or not set(active) <= set(range(len(edge.candidates))):
            raise ValueError(
                f"active must list different indices below {len(edge.candidates)}, got {active}"
            )


def _reference(
    inputs: Sequence[Tensor],
    mixing_weights: Tensor,
    edges: Sequence[Edge],
    training: bool,
    momentum: float,
) -> list[Tensor]:
    """The nodes in plain PyTorch."""
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


def _fused(
    inputs: Sequence[Tensor],
    mixing_weights: Tensor,
    selection: Selection,
    nodes: int,
    training: bool,
    momentum: float,
    backend: str,
    recompute: str,
    storage: str,
) -> list[Tensor]:
    """The nodes by the kernels of a backend."""
    dtype, returned = compute_dtype(inputs[0]), inputs[0].dtype
    counts = selection.counts(inputs)
    if training and selection.running.tensors and min(counts) < 2:
        raise ValueError("batch statistics need more than one value for each channel, got one")
    weights = mixing_weights.to(torch.promote_types(dtype, torch.float32))
    states = [x if x.dtype == dtype else x.to(dtype) for x in inputs]
    found: Sequence[Tensor]
    passes = None if is_traced(*states) else _passes(backend, selection, training)
    if passes is not None:
        from hwnas.kernels.function import CellCall, run_cell

        call = CellCall(
            selection.description, training, momentum, recompute, storage,
            selection.parameters.places, selection.running,
        )  # fmt: skip
        parameters = _as_type(selection.parameters.tensors, dtype)
        found = run_cell(passes, call, states, weights, parameters)
    else:
        parameters = _as_type(separate_parameters(selection.edges), dtype)
        found = _by_operator(
            states, weights, parameters, selection, nodes, counts, training, momentum, backend,
            recompute,
        )  # fmt: skip
    return [node if node.dtype == returned else node.to(returned) for node in found]


def _as_type(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t if t.dtype == dtype else t.to(dtype) for t in tensors]


def _passes(backend: str, selection: Selection, training: bool) -> Passes | None:
    """What computes a cell by one call for each pass; None if the operator has to compute it."""
    if backend == "cpu":
        from hwnas.kernels.cpu import cell as on_cpu

        return on_cpu
    from hwnas.kernels.triton import cell as on_gpu

    return on_gpu if training and on_gpu.suits(CellPlan.of(selection.description)) else None


def _by_operator(
    inputs: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    selection: Selection,
    nodes: int,
    counts: Sequence[int],
    training: bool,
    momentum: float,
    backend: str,
    recompute: str,
) -> Sequence[Tensor]:
    """The nodes by the operator `hwnas::mixed_cell`."""
    from hwnas.kernels.operator import mixed_cell_op, update_running_statistics

    running, dtype = selection.running.separate(), inputs[0].dtype
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (*inputs, weights, *parameters))
    outputs = mixed_cell_op(
        list(inputs), weights, list(parameters),
        [] if training else _as_type(running, dtype), selection.description, backend,
        recompute, save,
    )  # fmt: skip
    if training:
        tables = outputs[nodes : nodes + len(counts)]
        update_running_statistics(running, tables, selection.description, counts, momentum)
    found: Sequence[Tensor] = outputs[:nodes]
    return found
