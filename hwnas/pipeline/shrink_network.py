"""What is left of a network that is made smaller, and what its parts are worth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from hwnas.architecture import Architecture
from hwnas.config import ShrinkConfig
from hwnas.data.inputs import parts_of
from hwnas.pipeline.own_problem import examples_of
from hwnas.pipeline.run import Run
from hwnas.shrinking.channels import ChannelGroup, channel_groups
from hwnas.shrinking.importance import Batch, block_importance, mean_loss, unit_importance
from hwnas.shrinking.layers import KEEP
from hwnas.shrinking.space import ShrinkSpace
from hwnas.shrinking.worth import Worth
from hwnas.spaces.traced.space import TracedNetwork
from hwnas.training.evaluate import predictions
from hwnas.training.recalibration import recalibrate_norms


@dataclass
class Remainder:
    """What is left of a network.

    Attributes:
        run: the run that makes it smaller.
        model: the plain module, in evaluation mode.
        architecture: of that.
        groups: the groups of channels in it, as estimated last.
        units: the importance of each of their units, by group.
        worth: what the options of the space are worth.
    """

    run: Run
    model: nn.Module
    architecture: Architecture
    groups: list[ChannelGroup] = field(default_factory=list)
    units: dict[str, np.ndarray] = field(default_factory=dict)
    worth: Worth = field(init=False)

    @property
    def space(self) -> ShrinkSpace:
        """The space of everything that the network can become."""
        space = self.run.problem.space
        assert isinstance(space, ShrinkSpace)
        return space

    @property
    def config(self) -> ShrinkConfig:
        """The settings of the rounds."""
        assert self.run.config.shrink is not None
        return self.run.config.shrink

    def network(self) -> TracedNetwork:
        """What is left of the network, as one that is trained and exported."""
        return self.space.network_of(self.model, self.architecture)

    def test_score(self) -> float:
        """The score of the network on the test samples, which decides nothing."""
        task, dataset = self.run.problem.task, self.run.problem.dataset
        found = predictions(self.network(), dataset.test, dataset, self.run.device)
        return task.score(found)

    def estimate(self, number: int) -> None:
        """Estimate what the options are worth in the network as it is in a round."""
        config, loss_of = self.config, self.run.problem.task.loss
        batches = self._batches(
            f"importance {number}", config.importance_batches, self.architecture
        )
        examples = parts_of(examples_of(self.run.problem.dataset))
        groups, _ = channel_groups(copy.deepcopy(self.model).cpu(), examples)
        self.groups = groups = [group for group in groups if self.space.has(group)]
        self.units = unit_importance(self.model, groups, batches, loss_of, config.importance)
        chosen = self.space.chosen(self.architecture)
        paths = [path for path, row in self.space.blocks.items() if chosen[row] == KEEP]
        blocks = block_importance(self.model, paths, batches, loss_of)
        sizes = self._size_importance(f"importance {number}")
        self.worth = Worth.of(self.space, self.architecture, groups, self.units, blocks, sizes)

    def _size_importance(self, purpose: str) -> list[float]:
        """By how much the loss grows at each size of the input, at least 0; none if it stays."""
        if self.space.size_row is None:
            return []
        current, losses = self.space.chosen(self.architecture)[self.space.size_row], []
        for option in range(len(self.space.sizes)):
            architecture = self.space.at_size(self.architecture, option)
            model = copy.deepcopy(self.model)
            if option != current:
                self._recalibrate(model, architecture)
            batches = self._batches(purpose, self.config.importance_batches, architecture)
            losses.append(mean_loss(model, batches, self.run.problem.task.loss))
        return [max(0.0, loss - losses[current]) for loss in losses]

    def narrowed(self, architecture: Architecture) -> Remainder:
        """What is left at a smaller architecture, as `shrunk` makes it."""
        return Remainder(self.run, self.shrunk(architecture).model, architecture)

    def shrunk(self, architecture: Architecture) -> TracedNetwork:
        """The network narrowed to an architecture, with its batch norms recalibrated."""
        smaller = self.narrow_to(architecture)(self.model)
        self._recalibrate(smaller, architecture)
        return self.space.network_of(smaller, architecture).eval()

    def _recalibrate(self, model: nn.Module, architecture: Architecture) -> None:
        """Give the batch norms of an architecture's module statistics of its own."""
        recalibrate_norms(model, (inputs for inputs, _ in self.recalibration_batches(architecture)))

    def narrow_to(self, architecture: Architecture) -> Callable[[nn.Module], nn.Module]:
        """What narrows the network, or a copy with other weights, to an architecture."""
        return lambda model: self.space.shrunk(model, self.groups, architecture, self.units)

    def recalibration_batches(self, architecture: Architecture) -> list[Batch]:
        """Training batches from which the batch norms of an architecture take their statistics."""
        count = self.run.config.search.recalibration_batches
        return self._batches("recalibration", count, architecture)

    def _batches(self, purpose: str, count: int, architecture: Architecture) -> list[Batch]:
        """Training batches as an architecture's module reads them, without augmentation."""
        run = self.run
        batches = run.batches(run.problem.dataset.train, run.config.search.batch_size, purpose)
        network = self.space.network_of(self.model, architecture)
        pairs = map(batches.batch, range(count))
        return [(network.arguments(inputs), targets) for inputs, targets in pairs]

    def score(self, network: TracedNetwork) -> float:
        """The score on training samples."""
        run, dataset = self.run, self.run.problem.dataset
        rng = np.random.default_rng(run.seed("ranking"))
        count = min(run.config.search.ranking_images, len(dataset.train))
        split = dataset.train.take(np.sort(rng.permutation(len(dataset.train))[:count]))
        return run.problem.task.score(predictions(network, split, dataset, run.device))
