"""What a step of a supernet's weights trains: one mixture, or several that share the weights.

Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020
(arXiv 2003.11142), section 3.1: the largest architecture, the smallest and some between are trained
on the same batch (sandwich rule), where the outputs of the largest teach the others (in-place
distillation). Cai et al., "Once-for-All", ICLR 2020 (arXiv 1908.09791), section 3.3: smaller and
smaller architectures join (progressive shrinking).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.decode import smallest_and_largest
from hwnas.config import SearchConfig
from hwnas.nn.elastic_block import Reordering
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.networks import Supernet
from hwnas.spaces.sharing import SharedSupernet
from hwnas.supernet.evaluate import Batch
from hwnas.tasks import Loss


class Sandwich:
    """The losses of a step and their gradients.

    Args:
        supernet: whose weights are trained.
        space: of the strategy.
        config: `sandwich`, `distillation`, `shrinking` and the number of steps.
        seed: of the random architectures.
        loss_of: of outputs and targets; outputs are logits of classes where they teach.
    """

    def __init__(
        self, supernet: Supernet, space: SearchSpace, config: SearchConfig, seed: int, loss_of: Loss
    ) -> None:
        self.supernet = supernet
        self.space = space
        self.config = config
        self.seed = seed
        self.loss_of = loss_of
        self.phases = 0
        if config.shrinking:
            assert isinstance(supernet, SharedSupernet)
            self.phases = supernet.phases
        self.ends = smallest_and_largest(space) if config.sandwich else None

    def phase(self, step: int) -> int:
        """How many sizes have joined in a step; `phases` behind the share that shrinks."""
        if not self.phases:
            return 0
        share = step / (self.config.shrinking * self.config.steps)
        return min(self.phases, int(share * self.phases))

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Put the weights in the order that the phase needs which begins in a step, if one does."""
        phase = self.phase(step)
        if step and phase != self.phase(step - 1):
            assert isinstance(self.supernet, SharedSupernet)
            reorder(self.supernet.reordering(phase), optimizer)

    def backward(self, mixture: Mixture, batch: Batch, step: int) -> Tensor:
        """Add the gradients of all losses to the weights' and return the mean loss, detached.

        Args:
            mixture: the strategy's, on the device of the batch.
            batch: inputs and targets.
            step: of the search.
        """
        inputs, targets = batch
        first, *others = self._mixtures(mixture, step)
        outputs = self.supernet(inputs, first)
        loss = self.loss_of(outputs, targets)
        loss.backward()
        total, share = loss.detach(), self.config.distillation
        taught = outputs.detach().softmax(dim=1) if share else None
        for other in others:
            outputs = self.supernet(inputs, other)
            loss = self.loss_of(outputs, targets)
            if taught is not None:
                loss = (1 - share) * loss + share * F.cross_entropy(outputs, taught)
            loss.backward()
            total = total + loss.detach()
        return total / (1 + len(others))

    def _mixtures(self, mixture: Mixture, step: int) -> list[Mixture]:
        """What is trained, the largest architecture first if there are several."""
        phase = self.phase(step)
        if phase < self.phases:
            mixture = self._one_hot(self.space.most_likely(mixture), phase, mixture)
        if self.ends is None:
            return [mixture]
        smallest, largest = self.ends
        rng = np.random.default_rng([self.seed, step])
        drawn = [self.space.sample(rng) for _ in range(self.config.sandwich - 1)]
        random = [self._one_hot(architecture, phase, mixture) for architecture in drawn]
        ends = [self._one_hot(end, phase, mixture) for end in (largest, smallest)]
        return [ends[0], mixture, *random, ends[1]]

    def _one_hot(self, architecture: Architecture, phase: int, like: Mixture) -> Mixture:
        """What a phase trains of an architecture, with the type and device of another mixture."""
        if phase < self.phases:
            assert isinstance(self.supernet, SharedSupernet)
            architecture = self.supernet.at_phase(architecture, phase)
        return self.space.one_hot(architecture).to(like.weights)


@torch.no_grad()
def reorder(reorderings: Iterable[Reordering], optimizer: torch.optim.Optimizer) -> None:
    """Put entries of tensors in another order, and what an optimiser remembers of each."""
    for tensor, dimension, order in reorderings:
        remembered = optimizer.state.get(tensor, {}).values()
        moments = [m for m in remembered if torch.is_tensor(m) and m.shape == tensor.shape]
        for entries in (tensor, *moments):
            entries.copy_(entries.index_select(dimension, order))
