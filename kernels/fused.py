"""The mixed operators of a cell, fused: the order of kernels, forward and backward.

The forward pass goes through the states in order. For each it runs the ReLU, the pools and the
first-stage convolutions of all edges out of the state, computes their batch statistics, and runs
the second stages. A node is one weighted sum, computed when all edges into it have been evaluated.

The backward pass goes through the states in reverse. For each term one reduction,
S = sum g and T = sum g (z - mean), gives the gradients of mixing weights, scales and shifts, and
the coefficients of dz = a g + b (z - mean) + d. dz is not stored: kernels compute it while they
read g and z. README.md has the derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hwnas.kernels.backend import Backend
from hwnas.kernels.norms import TABLE_ROWS
from hwnas.kernels.operands import (
    MixTerm,
    NormGradients,
    NormTerms,
    PoolGradient,
    Pools,
    StageBackward,
    TableRows,
    Value,
)
from hwnas.kernels.plan import CellPlan, Group, Norm, Term

RECOMPUTE = ("nothing", "first", "all")
"""What the backward pass recomputes: nothing, the outputs of first stages, or of both stages."""

STORAGE = ("exact", "bfloat16")
"""How the outputs of convolutions may be stored for the backward pass."""


@dataclass
class GroupValues:
    """What the forward pass computes for a group of edges.

    Attributes:
        table: (R + 1, 6, C), the rows of the group's R batch norms and of the identity.
        pools: the pools of the source state; None if not used or not kept.
        first: outputs of first-stage convolutions, (B, N, OH, OW, C); None likewise.
        second: outputs of second-stage convolutions; None likewise.
    """

    table: Tensor
    pools: Pools | None = None
    first: Tensor | None = None
    second: Tensor | None = None

    def of(self, term: Term, source: Tensor) -> Value:
        """The value of a term before normalisation, (N, OH, OW, C)."""
        if term.value == "identity":
            return source
        if term.value == "pool":
            assert self.pools is not None
            return self.pools[term.position]
        stage = self.first if term.value == "first" else self.second
        assert stage is not None
        return stage[term.position]


class FusedCell:
    """One evaluation of a cell; `forward` and `backward` keep no state between calls.

    Args:
        plan: the cell.
        backend: the kernels.
        parameters: the cell's parameters, in the plan's order.
        running: running means and variances, two lists in the order of the plan's norms, to
            normalise with; None to use the batch's own statistics.
    """

    def __init__(
        self,
        plan: CellPlan,
        backend: Backend,
        parameters: Sequence[Tensor],
        running: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
    ) -> None:
        self.plan = plan
        self.backend = backend
        self.parameters = backend.pack(plan, parameters)
        self.running = running

    def forward(
        self,
        inputs: Sequence[Tensor],
        weights: Tensor,
        keeps: tuple[bool, bool] = (True, True),
    ) -> tuple[list[Tensor], list[GroupValues]]:
        """Node states (N, OH, OW, C), and what each group computed.

        Args:
            inputs: the cell's inputs, (N, H, W, C) each.
            weights: mixing weights, (edges, options).
            keeps: whether to keep the outputs of first and of second stages for `backward`.
        """
        flat = weights.reshape(-1)
        options = weights.shape[1]
        states = list(inputs)
        terms: dict[int, list[MixTerm]] = {i: [] for i in range(len(inputs) + self.plan.nodes)}
        groups = []
        for group in self.plan.groups:
            while group.source >= len(states):
                states.append(self._node(states, terms.pop(len(states)), flat))
            source = states[group.source]
            values = self._group_forward(group, source)
            groups.append(values)
            rows = values.table.unbind()
            for term, row in zip(group.terms, group.rows, strict=True):
                index = term.edge * options + term.option
                terms[term.target].append(MixTerm(values.of(term, source), rows[row], index))
            # `terms` holds outputs that are not kept until the nodes they lead to are computed.
            values.pools = None
            values.first = values.first if keeps[0] else None
            values.second = values.second if keeps[1] else None
        while len(states) < self.plan.inputs + self.plan.nodes:
            states.append(self._node(states, terms.pop(len(states)), flat))
        return states[self.plan.inputs :], groups

    def _node(self, states: Sequence[Tensor], terms: Sequence[MixTerm], flat: Tensor) -> Tensor:
        """The next node's state; zeros if no active candidate leads to it."""
        if terms:
            return self.backend.mix(terms, flat)
        source, stride = self.plan.origins[len(states) - self.plan.inputs]
        return torch.zeros_like(states[source][:, ::stride, ::stride])

    def _group_forward(self, group: Group, source: Tensor) -> GroupValues:
        """Run a group's convolutions and pools, and fill the table of their norms."""
        norms, first = group.norms, len(group.first)
        split = first + len(group.pooled)
        wide = torch.promote_types(source.dtype, torch.float32)
        shape = len(norms) + 1, TABLE_ROWS, source.shape[-1]
        table = self.backend.empty(shape, wide, source.device)
        values = GroupValues(table)
        sources = [*range(first), *(first + term.position for term in group.pooled)]
        if not group.second:
            filled = self._filled(TableRows(norms, [*sources, -1], table))
            values.pools, values.first = self._first(group, source, filled)
            return values
        filled = self._filled(TableRows(norms[:split], sources, table[:split]))
        values.pools, values.first = self._first(group, source, filled)
        of_second = [*range(len(group.second)), -1]
        filled = self._filled(TableRows(norms[split:], of_second, table[split:]))
        values.second = self._second(group, values, filled)
        return values

    def _first(
        self, group: Group, source: Tensor, filled: TableRows | None
    ) -> tuple[Pools | None, Tensor | None]:
        """Pools of the source, and outputs of the first-stage convolutions."""
        return self.backend.source_forward(
            source, group.stride, group.first, self.parameters, group.uses_pools, filled
        )

    def _second(self, group: Group, values: GroupValues, filled: TableRows | None) -> Tensor:
        """Outputs of the second-stage convolutions."""
        assert values.first is not None
        table = values.table[: len(group.first)]
        return self.backend.stage_forward(
            values.first, table, group.second, self.parameters, filled
        )

    def _filled(self, rows: TableRows) -> TableRows | None:
        """The rows to fill from the batch's statistics; None if running ones have filled them."""
        if self.running is None:
            return rows
        norms, out = rows.norms, rows.out
        statistics = out.new_empty(0, 2, out.shape[-1])
        if norms:
            kept = [torch.stack([side[n.position] for n in norms]) for side in self.running]
            stacked = torch.stack(kept, dim=1)
            statistics = torch.nn.functional.pad(stacked, (0, out.shape[-1] - stacked.shape[-1]))
        gammas = [None if n.gamma is None else self.parameters[n.gamma] for n in norms]
        betas = [None if n.beta is None else self.parameters[n.beta] for n in norms]
        sources = [*range(len(norms)), -1][: len(rows.sources)]
        self.backend.normalise(statistics, gammas, betas, out, sources)
        return None

    def recompute(self, group: Group, source: Tensor, values: GroupValues) -> None:
        """Compute again what the forward pass did not keep."""
        if group.first and values.first is None:
            values.first = self.backend.stage_forward(
                source.unsqueeze(0), None, group.first, self.parameters
            )
        if group.second and values.second is None:
            values.second = self._second(group, values, None)
        if group.uses_pools and values.pools is None:
            values.pools = self.backend.pool_values(source, group.stride)

    def backward(
        self,
        states: Sequence[Tensor],
        groups: Sequence[GroupValues],
        weights: Tensor,
        gradients: Sequence[Tensor | None],
        weight_gradients: Sequence[Tensor | None],
        needs_input: Sequence[bool],
        d_weights: Tensor | None = None,
    ) -> tuple[list[Tensor | None], Tensor]:
        """Gradients of the inputs, and of the mixing weights (edges, options).

        Args:
            states: inputs and nodes, (N, H, W, C) each.
            groups: as `forward` returned them; values that are None are recomputed. Each group's
                values are freed after use.
            weights: mixing weights, (edges, options).
            gradients: gradients of the nodes, None for zero.
            weight_gradients: for each parameter the tensor that its gradient is written to, None
                where not needed.
            needs_input: for each input, whether its gradient is needed.
            d_weights: zeros that the gradients of the mixing weights are written to; None for new
                ones.
        """
        d_states: list[Tensor | None] = [*(None for _ in range(self.plan.inputs)), *gradients]
        if d_weights is None:
            d_weights = weights.new_zeros(weights.shape)
        for group, values in zip(reversed(self.plan.groups), reversed(groups), strict=True):
            source = states[group.source]
            needed = group.source >= self.plan.inputs or needs_input[group.source]
            for term in group.terms:
                if d_states[term.target] is None:
                    d_states[term.target] = torch.zeros_like(states[term.target])
            self.recompute(group, source, values)
            d_states[group.source] = self._group_backward(
                group, values, source, weights, d_states, weight_gradients, d_weights, needed
            )
            values.first = values.second = values.pools = None
        self.backend.finish(self.parameters, weight_gradients)
        return d_states[: self.plan.inputs], d_weights

    def _group_backward(
        self,
        group: Group,
        values: GroupValues,
        source: Tensor,
        weights: Tensor,
        d_states: Sequence[Tensor | None],
        weight_gradients: Sequence[Tensor | None],
        d_weights: Tensor,
        needs_input: bool,
    ) -> Tensor | None:
        """Add a group's part to the gradient of its source; fills d_weights, weight_gradients."""
        if not group.terms:
            return d_states[group.source]
        table, rows = values.table, group.rows
        table_rows = table.unbind()
        targets = [d_states[term.target] for term in group.terms]
        terms = [
            (g, values.of(term, source))
            for g, term in zip(targets, group.terms, strict=True)
            if g is not None
        ]
        positions = [t.edge * weights.shape[1] + t.option for t in group.terms]
        norms = NormTerms(
            table, rows, self._count(targets), self._batch(rows, table), weights.reshape(-1),
            positions, d_weights.view(-1),
        )  # fmt: skip
        found = self.backend.reduce_terms(terms, norms, self.parameters)
        of_rows = [group.norms[row] if row < len(group.norms) else None for row in rows]
        self._store_affine(of_rows, found, weight_gradients)
        before, of_terms = d_states[group.source], found.coefficients.to(table.dtype).unbind()
        return self._convolutions_backward(
            group, values, source, targets, of_terms, table_rows, weight_gradients, before,
            needs_input,
        )  # fmt: skip

    def _convolutions_backward(
        self,
        group: Group,
        values: GroupValues,
        source: Tensor,
        targets: Sequence[Tensor | None],
        coefficients: Sequence[Tensor],
        table_rows: Sequence[Tensor],
        weight_gradients: Sequence[Tensor | None],
        before: Tensor | None,
        needs_input: bool,
    ) -> Tensor | None:
        """Backward pass of second stages, then of first stages, pools and skip connections."""
        first: dict[int, tuple[Tensor, Tensor]] = {}
        second: dict[int, tuple[Tensor, Tensor]] = {}
        for term, g, coefficient in zip(group.terms, targets, coefficients, strict=True):
            assert g is not None
            if term.value == "first":
                first[term.position] = (g, coefficient)
            elif term.value == "second":
                second[term.position] = (g, coefficient)
        if group.second:
            first |= self._second_backward(group, values, second, table_rows, weight_gradients)
        stage = None
        if group.first:
            assert values.first is not None
            ordered = [first[position] for position in range(len(group.first))]
            stage = StageBackward(
                group.first, self.parameters, values.first, [g for g, _ in ordered],
                [c for _, c in ordered], table_rows[: len(group.first)], weight_gradients,
            )  # fmt: skip
        edges = self._pool_gradients(group, targets, coefficients, table_rows)
        return self.backend.source_backward(
            source, group.stride, stage, edges, before, needs_input=needs_input
        )

    def _second_backward(
        self,
        group: Group,
        values: GroupValues,
        second: dict[int, tuple[Tensor, Tensor]],
        table_rows: Sequence[Tensor],
        weight_gradients: Sequence[Tensor | None],
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Gradient and coefficients of each first-stage convolution that a second stage reads."""
        table = values.table
        assert values.first is not None
        assert values.second is not None
        start = len(group.first) + len(group.pooled)
        ordered = [second[position] for position in range(len(group.second))]
        stage = StageBackward(
            group.second, self.parameters, values.second, [g for g, _ in ordered],
            [c for _, c in ordered], table_rows[start:-1], weight_gradients,
        )  # fmt: skip
        read = [c.reads for c in group.second if c.reads is not None]
        norms = NormTerms(table, read, self._count(stage.gradients), self._batch(read, table))
        d_values, found = self.backend.stage_backward(values.first, stage, norms)
        self._store_affine([group.first[row].norm for row in read], found, weight_gradients)
        gradients, of_reads = d_values.unbind(), found.coefficients.to(table.dtype).unbind()
        return {row: (gradients[row], of_reads[p]) for p, row in enumerate(read)}

    def _pool_gradients(
        self,
        group: Group,
        targets: Sequence[Tensor | None],
        coefficients: Sequence[Tensor],
        table_rows: Sequence[Tensor],
    ) -> list[PoolGradient]:
        """A `PoolGradient` for each edge that has a pool or a skip connection."""
        edges: dict[int, PoolGradient] = {}
        terms = zip(group.terms, group.rows, targets, coefficients, strict=True)
        for term, row, g, coefficient in terms:
            if term.value not in ("pool", "identity"):
                continue
            assert g is not None
            edge = edges.get(term.edge, PoolGradient(g, None, None, None))
            if term.value == "identity":
                edges[term.edge] = edge._replace(identity=coefficient)
            elif term.position == 0:
                edges[term.edge] = edge._replace(maximum=(coefficient, table_rows[row]))
            else:
                edges[term.edge] = edge._replace(mean=(coefficient, table_rows[row]))
        return list(edges.values())

    def _store_affine(
        self, norms: Sequence[Norm | None], found: NormGradients, out: Sequence[Tensor | None]
    ) -> None:
        """Write the gradients of scales and shifts where they are needed; None has neither."""
        if all(norm is None or norm.gamma is None for norm in norms):
            return
        for norm, d_gamma, d_beta in zip(norms, found.d_gamma, found.d_beta, strict=True):
            if norm is None or norm.gamma is None:
                continue
            for position, gradient in ((norm.gamma, d_gamma), (norm.beta, d_beta)):
                target = None if position is None else out[position]
                if target is not None:
                    target.copy_(gradient[: len(target)])

    def _count(self, values: Sequence[Tensor | None]) -> int:
        """N OH OW, the number of values of a channel."""
        assert values[0] is not None
        return values[0].numel() // values[0].shape[-1]

    def _batch(self, rows: Sequence[int], table: Tensor) -> list[bool] | None:
        """For each row whether it holds the batch's own statistics; None if all do."""
        identity = len(table) - 1
        if self.running is None and identity not in rows:
            return None
        return [self.running is None and row != identity for row in rows]
