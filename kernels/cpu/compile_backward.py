"""Compiles the backward pass of a cell to a program.

The order of the steps is that of `hwnas.kernels.fused`, which describes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from hwnas.kernels.cpu.compiler import (
    PROGRAMS,
    Compiler,
    Strides,
    bytes_of,
)
from hwnas.kernels.cpu.program import VECTOR, Program, Sizes, reference
from hwnas.kernels.cpu.structures import (
    ConvolutionEntry,
    NormGradientEntry,
    PoolGradientEntry,
    ReduceEntry,
)
from hwnas.kernels.plan import Convolution, Group, Norm, parameter_shape


@lru_cache(maxsize=PROGRAMS)
def compile_backward(
    description: str,
    sizes: Sizes,
    strides: tuple[Strides, ...],
    gradient_strides: tuple[Strides, ...],
    batch: bool,
    keeps: tuple[bool, bool],
    needs_input: tuple[bool, ...],
    needs_parameter: bytes,
) -> Program:
    """The backward pass of a cell.

    Args:
        description: as for `compile_forward`.
        sizes: as for `compile_forward`.
        strides: of the inputs and of the nodes.
        gradient_strides: of the gradients of the nodes.
        batch: as for `compile_forward`.
        keeps: as for `compile_forward`.
        needs_input: for each input, whether its gradient is needed.
        needs_parameter: for each parameter, whether its gradient is needed.
    """
    compiler = _Backward(description, sizes, keeps, batch, needs_parameter)
    compiler.compile(strides, gradient_strides, needs_input)
    return compiler.program


class _Backward(Compiler):
    def __init__(
        self,
        description: str,
        sizes: Sizes,
        keeps: tuple[bool, bool],
        batch: bool,
        needs_parameter: bytes,
    ) -> None:
        super().__init__(description, sizes, keeps, batch)
        shapes = [parameter_shape(c, name, sizes.channels) for c, name in self.plan.parameters]
        self.gradient_places = [0] * len(shapes)
        for position, (shape, needed) in enumerate(zip(shapes, needs_parameter, strict=True)):
            if needed:
                offset = self.program.elements * sizes.dtype.itemsize
                self.gradient_places[position] = reference(VECTOR, offset)
                self.program.elements += math.prod(shape)

    def compile(
        self,
        strides: tuple[Strides, ...],
        gradient_strides: tuple[Strides, ...],
        needs_input: tuple[bool, ...],
    ) -> None:
        """All steps: the groups in reverse."""
        plan, bases, sizes = self.plan, self.bases, self.state_sizes
        read = [i for i in range(len(sizes)) if i in plan.sources]
        self.states = {
            i: self.read_in(reference(bases.inputs + i), sizes[i], strides[i])
            if i < plan.inputs
            else self.read_in(reference(bases.nodes + i - plan.inputs), sizes[i], strides[i])
            for i in read
        }
        self.d_states = dict.fromkeys(range(plan.inputs), 0)
        for i, given in enumerate(gradient_strides):
            place, number = reference(bases.gradients + i), plan.inputs + i
            self.d_states[number] = self.read_in(place, sizes[number], given)
        left = [group.source for group in plan.groups if group.terms]
        for index in reversed(range(len(plan.groups))):
            group = plan.groups[index]
            if not group.terms:
                continue
            left.pop()
            needed = group.source >= plan.inputs or needs_input[group.source]
            final = group.source < plan.inputs and group.source not in left
            self.group(index, group, needed, final)
        for i, needed in enumerate(needs_input):
            place = reference(bases.d_inputs + i)
            if needed and not self.d_states[i]:
                count = bytes_of(self.sizes, sizes[i]) // self.sizes.width * self.sizes.channels
                self.program.step(
                    "clear", self.program.shape(sizes[i]), outputs=place, strides=(count, 0, 0)
                )
            elif needed and self.d_states[i] != place:
                self.write_out(self.d_states[i], sizes[i], place)

    def group(self, index: int, group: Group, needed: bool, final: bool) -> None:
        """The gradients of a group's mixing weights, norms and convolutions, and of its source.

        Args:
            index: of the group.
            group: with terms.
            needed: whether the gradient of the source is needed.
            final: whether it is complete after this group.
        """
        scratch = self.program.scratch
        source, table = self.states[group.source], self.kept.tables[index]
        first, second, recomputed = self.stages(index, group, source)
        targets = [self.d_states[term.target] for term in group.terms]
        coefficients = self.mixing(group, table, targets, (source, first, second))
        of_first, of_second = (
            {
                term.position: {"gradient": target, "coefficients": found}
                for term, target, found in zip(group.terms, targets, coefficients, strict=True)
                if term.value == name
            }
            for name in ("first", "second")
        )
        taken = [*recomputed, coefficients[0]]
        if group.second:
            handed_on, more = self.second(group, table, first, second, of_second)
            of_first |= handed_on
            taken += more
        self.source(group, source, table, first, of_first, targets, coefficients, needed, final)
        for place in taken:
            scratch.give_back(place)

    def stages(self, index: int, group: Group, source: int) -> tuple[int, int, list[int]]:
        """Outputs of first and second stages, and those of them that are computed again."""
        first, second = self.kept.first[index], self.kept.second[index]
        size, taken = self.size_of(group), []
        if group.first and not first:
            first = self.stage(size, len(group.first), group.stride)
            statistics = self.doubles(len(group.first))
            self.convolve(group, source, first, statistics)
            self.program.scratch.give_back(statistics)
            taken.append(first)
        if group.second and not second:
            second = self.stage(size, len(group.second), group.stride)
            found = self.convolve_second(group, self.kept.tables[index], first, second)
            self.program.scratch.give_back(found)
            taken.append(second)
        return first, second, taken

    def mixing(
        self, group: Group, table: int, targets: Sequence[int], values: tuple[int, int, int]
    ) -> list[int]:
        """Gradients of the group's mixing weights and last norms; coefficients of each term."""
        entries = [
            {
                "value": self.value(term, group, *values),
                "gradient": target,
                "row": table + row * self.row,
            }
            for term, row, target in zip(group.terms, group.rows, targets, strict=True)
        ]
        sums = self.doubles(len(entries))
        size = self.target_size(group)
        self.program.step("reduce", self.program.shape(size), ReduceEntry, entries, statistics=sums)
        coefficients = self.coefficients(len(entries))
        norms = [
            self.norm_gradient(
                group.norms[row] if row < len(group.norms) else None,
                table + row * self.row,
                sums + i * self.bytes_of_doubles,
                coefficients[i],
                self.position(term),
            )
            for i, (term, row) in enumerate(zip(group.terms, group.rows, strict=True))
        ]
        self.program.step("normalise_backward", self.program.shape(size), NormGradientEntry, norms)
        self.program.scratch.give_back(sums)
        return coefficients

    def coefficients(self, count: int) -> list[int]:
        """Scratch memory for coefficients (3, width) one after the other; the first is taken."""
        size = 3 * self.sizes.width * self.sizes.dtype.itemsize
        start = self.program.scratch.take(count * size)
        return [start + i * size for i in range(count)]

    def norm_gradient(
        self, norm: Norm | None, row: int, sums: int, coefficients: int, position: int
    ) -> dict[str, int]:
        """The entry of a term that a norm normalises; None for the identity."""
        gamma, beta = (None, None) if norm is None else (norm.gamma, norm.beta)
        return {
            "row": row, "sums": sums, "coefficients": coefficients, "position": position,
            "batch": int(self.batch and norm is not None),
            "d_gamma": 0 if gamma is None else self.gradient_places[gamma],
            "d_beta": 0 if beta is None else self.gradient_places[beta],
        }  # fmt: skip

    def with_gradients(
        self, convolution: Convolution, row: int, found: dict[str, int]
    ) -> dict[str, Any]:
        """The entry of a convolution in its backward pass."""
        weights = zip(("first", "second"), convolution.weights, strict=False)
        places = {f"{name}_gradient": self.gradient_places[i] for name, i in weights}
        return self.convolution(convolution, row=row, **found, **places)

    def second(
        self, group: Group, table: int, first: int, second: int, found: dict[int, dict[str, int]]
    ) -> tuple[dict[int, dict[str, int]], list[int]]:
        """Backward pass of the second stages.

        Returns:
            For each first stage that a second one reads, its gradient and coefficients; and the
            scratch memory that they take.
        """
        size, count = self.target_size(group), len(group.first)
        start = count + len(group.pooled)
        entries = [
            self.with_gradients(c, table + (start + i) * self.row, found[i])
            for i, c in enumerate(group.second)
        ]
        gradients, sums = self.activation(size, count), self.doubles(count)
        shape = self.program.shape(size)
        self.program.step(
            "convolve_backward", shape, ConvolutionEntry, entries, values=first, table=table,
            outputs=second, d_values=gradients, reads=count, statistics=sums, stride=1,
        )  # fmt: skip
        read = [c.reads for c in group.second if c.reads is not None]
        coefficients = self.coefficients(len(read))
        norms = [
            self.norm_gradient(
                group.first[row].norm, table + row * self.row, sums + row * self.bytes_of_doubles,
                coefficients[i], -1,
            )
            for i, row in enumerate(read)
        ]  # fmt: skip
        self.program.step("normalise_backward", shape, NormGradientEntry, norms)
        self.program.scratch.give_back(sums)
        one = bytes_of(self.sizes, size)
        handed_on = {
            row: {"gradient": gradients + row * one, "coefficients": coefficients[i]}
            for i, row in enumerate(read)
        }
        return handed_on, [gradients, coefficients[0]]

    def source(
        self,
        group: Group,
        source: int,
        table: int,
        first: int,
        found: dict[int, dict[str, int]],
        targets: Sequence[int],
        coefficients: Sequence[int],
        needed: bool,
        final: bool,
    ) -> None:
        """Backward pass of first stages, pools and skip connections."""
        size, before = self.size_of(group), self.d_states[group.source]
        entries = [
            self.with_gradients(c, table + i * self.row, found[i])
            for i, c in enumerate(group.first)
        ]
        of_edges: dict[int, dict[str, int]] = {}
        for term, row, target, own in zip(
            group.terms, group.rows, targets, coefficients, strict=True
        ):
            if term.value not in ("pool", "identity"):
                continue
            edge = of_edges.setdefault(term.edge, {"gradient": target})
            name = "identity" if term.value == "identity" else ("maximum", "mean")[term.position]
            edge[name] = own
            if name != "identity":
                edge[f"{name}_row"] = table + row * self.row
        place = 0
        if needed and final and not self.padded:
            place = reference(self.bases.d_inputs + group.source)
        elif needed:
            place = self.activation(size)
        listed = list(of_edges.values()) if needed else []
        self.program.step(
            "convolve_backward", self.program.shape(size, group.stride), ConvolutionEntry, entries,
            values=source, outputs=first, d_values=place, reads=1, before=before,
            stride=group.stride, edges=len(listed),
            first_edge=self.program.extend(PoolGradientEntry, listed),
        )  # fmt: skip
        if needed:
            self.program.scratch.give_back(before)
            self.d_states[group.source] = place
