"""Spaces whose first choice is a size that the operators of all other choices depend on.

What a choice's option costs depends on the size. So it has a part for each pair of size and option.
A choice may stand under a further one: its operator runs if that one took one of certain options,
as a layer does if its stage is deep enough.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from hwnas.latency_tables.calibration import EdgeRule
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.decoding import DecodingProgram
from hwnas.spaces.options import SpaceOptions

SIZE = 0
"""The row of the choice of the size."""
Condition = tuple[int, tuple[int, ...]]
"""A choice, and which of its options have to be taken."""


class SizedSpace(SearchSpace):
    """Choices decide independently: a part runs with the product of their probabilities.

    The first choice has a part for each size: what runs whatever the others take.
    """

    def __init__(self, options: SpaceOptions) -> None:
        super().__init__(options)
        shape = (len(self.choices), self.max_parts)
        # The size (a column of the first row) and the option that each part belongs to.
        self.part_size = np.zeros(shape, dtype=np.int64)
        self.part_option = np.zeros(shape, dtype=np.int64)
        self._is_part = np.zeros(shape, dtype=bool)
        self._is_pair = np.zeros(shape, dtype=bool)
        for row in range(len(self.choices)):
            for column, (size, option) in enumerate(self._pairs(row)):
                self.part_size[row, column] = size
                self.part_option[row, column] = option
                self._is_part[row, column] = True
                self._is_pair[row, column] = row != SIZE and self._has_operator(row, option)

    @abstractmethod
    def _has_operator(self, row: int, option: int) -> bool:
        """Whether anything runs because of an option of a choice that is not the size."""

    def _condition(self, row: int) -> Condition | None:
        """What a choice's operator stands under; None where it always runs."""
        return None

    def _pairs(self, row: int) -> list[tuple[int, int]]:
        """Size and option of each part; the first size where none matters."""
        options = range(len(self.choices[row].options))
        if row == SIZE:
            return [(k, k) for k in options]
        running = [k for k in options if self._has_operator(row, k)]
        sizes = range(len(self.choices[SIZE].options))
        return [(s, k) for s in sizes for k in running] + [
            (0, k) for k in options if k not in running
        ]

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """`attention_h3 of c192` ...: each option with each size."""
        sizes = self.choices[SIZE].options
        parts = [sizes]
        for row, choice in enumerate(self.choices[1:], start=1):
            parts.append(
                tuple(
                    f"{choice.options[k]} of {sizes[s]}"
                    if self._has_operator(row, k)
                    else choice.options[k]
                    for s, k in self._pairs(row)
                )
            )
        return tuple(parts)

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """The product of the probabilities of size, option and condition."""
        # Rows may have any sum (sigmoids, an auxiliary weight): they are odds.
        odds = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        rows = np.arange(len(self.choices))[:, None]
        of_option = odds[..., rows, self.part_option]
        of_size = odds[..., SIZE, :][..., self.part_size]
        is_pair = torch.as_tensor(self._is_pair, device=odds.device)
        is_part = torch.as_tensor(self._is_part, device=odds.device)
        runs = of_option * torch.where(is_pair, of_size, 1.0) * is_part
        conditions = [self._condition(row) for row in range(len(self.choices))]
        if not any(conditions):
            return runs
        one = torch.ones_like(odds[..., 0, 0])
        present = [
            one if c is None else odds[..., c[0], list(c[1])].sum(dim=-1) for c in conditions
        ]
        return runs * torch.stack(present, dim=-1).unsqueeze(-1)

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """One option a choice, and a variable for each pair of size and option.

        Of a choice's pairs those of one option add up to no more than the option, those of one size
        to no more than the size, and all of them to 1 if an operator runs. With options of 0 and 1
        a pair is then the product of what it depends on, whatever its cost.
        """
        count, width = self.mask.shape
        taken = np.arange(count * width).reshape(count, width)
        pairs = np.argwhere(self._is_pair)
        runs = np.where(self._is_part, taken[np.arange(count)[:, None], self.part_option], -1)
        runs[self._is_pair] = taken.size + np.arange(len(pairs))
        variables = taken.size + len(pairs)
        one_option = np.zeros((count, variables))
        one_option[np.arange(count)[:, None], taken] = 1
        of_option = np.zeros((count, width, variables))
        of_size = np.zeros((count, width, variables))
        of_choice = np.zeros((count, variables))
        for row, part in pairs:
            option, size = self.part_option[row, part], self.part_size[row, part]
            of_option[row, option, [runs[row, part], taken[row, option]]] = 1, -1
            of_size[row, size, [runs[row, part], taken[SIZE, size]]] = 1, -1
            of_choice[row, runs[row, part]] = 1
            condition = self._condition(row)
            running = (row, option) if condition is None else condition
            of_choice[row, taken[running[0], running[1]]] = -1
        at_most = np.vstack([of_option.reshape(-1, variables), of_size.reshape(-1, variables)])
        return DecodingProgram(
            len(pairs),
            np.vstack([one_option, of_choice, at_most]),
            np.repeat([1.0, 0.0, -np.inf], [count, count, len(at_most)]),
            np.repeat([1.0, 0.0, 0.0], [count, count, len(at_most)]),
            runs,
        )
