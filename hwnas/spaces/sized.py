"""Spaces whose first choice is a size that the operators of all other choices depend on.

The size may be the image's resolution or the number of embedding channels. Since the cost of an
option depends on it, a choice has a part for each pair of size and option. A choice may also depend
on one other choice: its operator runs only if that choice takes one of certain options, as a layer
runs only if its stage is deep enough.
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
"""The row of the choice of a size."""
Condition = tuple[int, tuple[int, ...]]
"""The row of a choice, and the options of which it has to take one."""


class SizedSpace(SearchSpace):
    """Choices are independent, so a part runs with the product of the probabilities it depends on.

    The parts of the first choice, one for each size, are the operators that run whatever the other
    choices take.

    Attributes:
        part_size: (choices, max_parts), index of the size that a part belongs to.
        part_option: (choices, max_parts), index of the option that a part belongs to.
    """

    def __init__(self, options: SpaceOptions) -> None:
        super().__init__(options)
        shape = (len(self.choices), self.max_parts)
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
        """Whether an operator runs because of an option of a choice other than the size."""

    def _condition(self, row: int) -> Condition | None:
        """The condition under which a choice's operator runs; None if it always runs."""
        return None

    def _pairs(self, row: int) -> list[tuple[int, int]]:
        """The size and option of each part; size 0 if the part does not depend on the size."""
        options = range(len(self.choices[row].options))
        if row == SIZE:
            return [(k, k) for k in options]
        running = [k for k in options if self._has_operator(row, k)]
        sizes = range(len(self.choices[SIZE].options))
        return [(s, k) for s in sizes for k in running] + [
            (0, k) for k in options if k not in running
        ]

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """Each option with each size, such as `attention_h3 of c192`."""
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
        """The product of the probabilities of a part's option, size and condition."""
        # Rows need not sum to 1 (sigmoids, an auxiliary weight).
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
        """Every choice takes one option, and each pair of size and option has a variable.

        Among the pairs of a choice, those of one option sum to at most the option's variable, those
        of one size to at most the size's variable, and all of them to 1 if an operator runs and
        else to 0. With binary options a pair is then the product of its option, size and condition,
        whatever it costs.
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
