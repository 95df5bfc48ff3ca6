"""What is lost with each option of a shrink space: the scores that the exact decoder maximises.

The score of a width is minus the importance of the units that go, and those of a removed block and
of a smaller input are minus their own importance; all are increases of the loss. So the whole
network scores 0, and the best architecture within a budget is the one that loses least. This is the
knapsack problem of HALP (Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS
2022, arXiv 2210.06659) with pairs of widths in place of single layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.architecture import Architecture
from hwnas.shrinking.channels import ChannelGroup
from hwnas.shrinking.layers import KEEP
from hwnas.shrinking.space import ShrinkSpace
from hwnas.strategies.base import Decoder

GONE = 1e3
"""What taking back a part that is gone would cost, in sums of all importances."""


@dataclass(frozen=True)
class Worth:
    """Proposes the architectures that lose least.

    Attributes:
        scores: (choices, max_options), minus the increase of the loss with each option.
        seed: proposals involve no chance.
    """

    scores: np.ndarray
    seed: int = 0

    @classmethod
    def of(
        cls,
        space: ShrinkSpace,
        current: Architecture,
        groups: Sequence[ChannelGroup],
        units: Mapping[str, np.ndarray],
        blocks: Mapping[str, float],
        sizes: Sequence[float] = (),
    ) -> Worth:
        """Score the options of a space for a network that was shrunk already.

        Args:
            space: the space.
            current: the network's architecture; what is gone stays gone.
            groups: the groups of channels in the network.
            units: the importance of each of their units, by group.
            blocks: the importance of each block that is still there, by path.
            sizes: the importance of what is lost at each size of the input.
        """
        scores = np.zeros(space.mask.shape)
        total = sum(float(values.sum()) for values in units.values()) + sum(blocks.values())
        never = -GONE * max(total, 1e-12)
        chosen = space.chosen(current)
        for group in groups:
            row = space.row_of(group)
            lost = np.concatenate([[0.0], np.cumsum(np.sort(units[group.name]))])
            for option, width in enumerate(space.offered(row)):
                kept = width // group.unit
                fits = kept <= group.units
                scores[row, option] = -lost[group.units - kept] if fits else never
        for path, row in space.blocks.items():
            if chosen[row] == KEEP:
                scores[row, 1 - KEEP] = -blocks[path]
            else:
                scores[row, KEEP] = never
        if space.size_row is not None:
            scores[space.size_row, : len(sizes)] = -np.asarray(sizes)
        return cls(scores)

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        """The k architectures within the decoder's budgets that lose least, best first."""
        return decoder.best(self.scores, k)

    def of_architecture(self, space: ShrinkSpace, architecture: Architecture) -> float:
        """The score of an architecture, in which idle choices are not counted."""
        chosen = space.chosen(architecture)
        idle = space.idle(chosen)
        return float(sum(self.scores[row, k] for row, k in enumerate(chosen) if row not in idle))
