"""Training steps of the supernet's weights, on one or on several architectures per step.

- Sandwich rule: the largest architecture, the smallest and random ones are trained on the same
  batch. In-place distillation: the outputs of the largest one are soft targets of the others. Yu
  et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020
  (arXiv 2003.11142), section 3.1.
- Progressive shrinking: training starts with the largest sizes, and smaller ones are added phase
  by phase. Cai et al., "Once-for-All", ICLR 2020 (arXiv 1908.09791), section 3.3.
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
    """Computes the losses of a training step and their gradients.

    Args:
        supernet: the network whose weights are trained.
        space: the search space of the strategy.
        config: provides `sandwich`, `distillation`, `shrinking` and the number of steps.
        seed: seed of the random architectures.
        loss_of: maps outputs and targets to the loss. For distillation, the outputs must be class
            logits.
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
        """Return the phase of progressive shrinking at a step; `phases` once it is finished."""
        if not self.phases:
            return 0
        share = step / (self.config.shrinking * self.config.steps)
        return min(self.phases, int(share * self.phases))

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Sort the weights by importance if a phase that needs it begins at this step."""
        phase = self.phase(step)
        if step and phase != self.phase(step - 1):
            assert isinstance(self.supernet, SharedSupernet)
            reorder(self.supernet.reordering(phase), optimizer)

    def backward(self, mixture: Mixture, batch: Batch, step: int) -> Tensor:
        """Accumulate the gradients of all losses in the weights.

        Args:
            mixture: the strategy's mixture, on the device of the batch.
            batch: inputs and targets.
            step: step of the search.

        Returns:
            The mean loss, detached.
        """
        inputs, targets = batch
        first, *others = self._mixtures(mixture, step)
        outputs = self.supernet(inputs, first)
        loss = self.loss_of(outputs, targets)
        torch.autograd.backward(loss)
        total, share = loss.detach(), self.config.distillation
        soft_targets = outputs.detach().softmax(dim=1) if share else None
        for other in others:
            outputs = self.supernet(inputs, other)
            loss = self.loss_of(outputs, targets)
            if soft_targets is not None:
                loss = (1 - share) * loss + share * F.cross_entropy(outputs, soft_targets)
            torch.autograd.backward(loss)
            total = total + loss.detach()
        return total / (1 + len(others))

    def _mixtures(self, mixture: Mixture, step: int) -> list[Mixture]:
        """Return the mixtures that a step trains; of several, the largest comes first."""
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
        """Return the one-hot mixture of an architecture, restricted to the sizes of a phase.

        Its dtype and device are those of `like`.
        """
        if phase < self.phases:
            assert isinstance(self.supernet, SharedSupernet)
            architecture = self.supernet.at_phase(architecture, phase)
        return self.space.one_hot(architecture).to(like.weights)


@torch.no_grad()
def reorder(reorderings: Iterable[Reordering], optimizer: torch.optim.Optimizer) -> None:
    """Reorder tensors in place, together with the optimiser's moments of each."""
    for tensor, dimension, order in reorderings:
        state = optimizer.state.get(tensor, {}).values()
        moments = [m for m in state if torch.is_tensor(m) and m.shape == tensor.shape]
        for entries in (tensor, *moments):
            entries.copy_(entries.index_select(dimension, order))
