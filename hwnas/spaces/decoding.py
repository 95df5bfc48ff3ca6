"""Which operators a network pays for: as probabilities of a mixture, and as a linear programme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Repeated:
    """Options that run the same work on the same input, in full or in part.

    Attributes:
        options: (choice, option) of each.
        share: of an option's time that the others need not spend again; 1 for operators without
            weights, less for those that begin with a part without weights.
    """

    options: tuple[tuple[int, int], ...]
    share: float = 1.0


@dataclass(frozen=True)
class DecodingProgram:
    """Which 0/1 vectors are architectures: the structure of a space as linear constraints.

    The variables are first one for each option of each choice (row-major as in a Mixture, 0 or 1,
    1 where the option is taken), then `auxiliary` more between 0 and 1 that the space is free to
    use.

    Attributes:
        auxiliary: number of further variables.
        matrix: (constraints, variables).
        lower, upper: (constraints,), bounds of `matrix @ variables`.
        runs: (choices, max_parts), index of the variable that is 1 when that part runs and costs
            time; -1 where there is no such part.
    """

    auxiliary: int
    matrix: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    runs: np.ndarray

    def run_once(self, repeats: Sequence[Repeated]) -> DecodingProgram:
        """The same structure, where the first option of a group that runs pays for all.

        One more variable for each option that is not its group's first: what it still pays when
        it runs. Running costs time, so a budget pushes the variable no higher than it must be.
        """
        later = [(group, i) for group in repeats for i in range(1, len(group.options))]
        variables = self.matrix.shape[1]
        rows, runs = [], self.runs.copy()
        for number, (group, position) in enumerate(later):
            run = self.runs[group.options[position]]
            least, first = np.zeros((2, variables + len(later)))
            least[variables + number] = first[variables + number] = 1
            least[run] = group.share - 1
            first[run] = -1
            first[[self.runs[earlier] for earlier in group.options[:position]]] = group.share
            rows += [least, first]
            runs[group.options[position]] = variables + number
        wider = np.pad(self.matrix, ((0, 0), (0, len(later))))
        return replace(
            self,
            auxiliary=self.auxiliary + len(later),
            matrix=np.vstack([wider, *rows]),
            lower=np.concatenate([self.lower, np.zeros(len(rows))]),
            upper=np.concatenate([self.upper, np.full(len(rows), np.inf)]),
            runs=runs,
        )


def run_once(runs: Tensor, repeats: Sequence[Repeated]) -> Tensor:
    """What an option is expected to pay, where the first of a group that runs pays for all.

    Exact where the members of a group run independently of each other.

    Args:
        runs: (..., choices, max_parts), probability that each part runs.
        repeats: the groups.
    """
    paid = torch.ones_like(runs)
    for group in repeats:
        absent = torch.ones_like(runs[..., 0, 0])
        for choice, option in group.options:
            paid[..., choice, option] = 1 - group.share * (1 - absent)
            absent = absent * (1 - runs[..., choice, option])
    return runs * paid
