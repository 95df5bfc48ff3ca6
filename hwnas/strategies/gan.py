"""A generator of architectures against a discriminator that compares pairs.

Rezaei et al., "Generative Adversarial Neural Architecture Search", IJCAI 2021 (arXiv 2105.09356).
The discriminator learns from the evaluations which of two architectures is better, and the
generator learns to make architectures that it prefers to the best ones so far. Here the generator
follows the discriminator's gradient through samples of the Gumbel softmax instead of a policy
gradient.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.autoencoder import most_probable
from hwnas.strategies.base import Decoder, Outcome
from hwnas.strategies.sampled import SampledSettings, SampledStrategy
from hwnas.strategies.size_prior import CAPACITY, log_sizes, size_moments

REFERENCE_NETWORKS = 200
"""Number of random architectures by which network sizes are standardised."""
NOISE, HIDDEN, BATCH = 8, 64, 64
LEARNING_RATE = 1e-2


class GanSettings(SampledSettings):
    """Sizes of the sets that are compared, and of the training."""

    startup: int = Field(
        10, ge=2, description="number of evaluations before the generator proposes"
    )
    elite: int = Field(10, ge=1, description="number of best architectures it is compared with")
    draws: int = Field(
        64, ge=1, description="generated architectures of which the preferred one is proposed"
    )
    steps: int = Field(100, ge=1, description="training steps of discriminator and generator")
    refit: int = Field(5, ge=1, description="evaluations between two trainings")
    entropy: float = Field(
        0.05, ge=0, description="weight of the entropy of the generator's distributions"
    )
    capacity: float = Field(
        CAPACITY,
        ge=0,
        description="by how much the log error of a short training falls further in a long "
        "one, for each standard deviation of the log of the parameters",
    )
    memory: int = Field(500, ge=2, description="number of latest evaluations that are compared")


class Evaluated(NamedTuple):
    """An evaluation: the architecture, its objective, and its latency over the budget."""

    architecture: Architecture
    objective: float
    ratio: float


class GanStrategy(SampledStrategy):
    """Proposes the generated architecture that the discriminator prefers.

    The generator's condition is the share of the budget that an architecture takes, so that it
    learns from each of the best with its share, and generates for the shares of the best. Both
    networks are trained anew every `refit` evaluations; they depend on these and the seed alone.
    """

    name = "gan"
    paper = (
        "Rezaei et al., Generative Adversarial Neural Architecture Search, IJCAI 2021, "
        "arXiv 2105.09356"
    )
    settings_model = GanSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: GanSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.settings = settings
        self.observed: deque[Evaluated] = deque(maxlen=settings.memory)
        self.size_mean, self.size_std = size_moments(space, REFERENCE_NETWORKS, seed)
        self.seen = self.fitted = 0
        self.fitted_on: list[Evaluated] = []
        self._networks: tuple[nn.Module, nn.Module] | None = None

    def propose(self, rng: np.random.Generator) -> Architecture:
        if len(self.observed) < self.settings.startup:
            return self.draw_large(rng)
        if not self.fitted_on or self.seen - self.fitted >= self.settings.refit:
            self._fit()
        generated = self._generated(rng)
        known = {one.architecture for one in self.observed}
        new = [a for a in generated if a not in known and self.decoder.is_feasible(a)]
        if not new:
            return self.draw_large(rng)
        _, discriminator = self._trained()
        with torch.no_grad():
            preferences = discriminator(self._features(self.space.one_hots(new).float()))
        return new[int(preferences.argmax())]

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        self.observed.append(Evaluated(architecture, outcome.objective, outcome.ratio))
        self.seen += 1

    def ranked(self) -> list[Architecture]:
        """The records with the size prior, or else the evaluations by what is compared."""
        if self.records and self.size_prior:
            return super().ranked()
        return [one.architecture for one in self._best(list(self.observed))]

    def _compared(self, evaluated: list[Evaluated]) -> np.ndarray:
        """What is to be small, (evaluated,).

        The objectives, or for scores of trainings their logarithms with what longer trainings
        change, as in `bayesian`.
        """
        objectives = np.array([one.objective for one in evaluated])
        if not self.records or objectives.min() <= 0:
            return objectives
        sizes = log_sizes(self.space, [one.architecture for one in evaluated])[:, 0]
        standardised = (sizes - self.size_mean[0]) / self.size_std[0]
        compared: np.ndarray = np.log(objectives) - self.settings.capacity * standardised
        return compared

    def _best(self, evaluated: list[Evaluated]) -> list[Evaluated]:
        """The evaluations of different architectures, the best first."""
        best: dict[Architecture, Evaluated] = {}
        for place in np.argsort(self._compared(evaluated), kind="stable"):
            best.setdefault(evaluated[place].architecture, evaluated[place])
        return list(best.values())

    def _fit(self) -> None:
        """Train on what was observed until now."""
        self.fitted, self.fitted_on = self.seen, list(self.observed)
        self._networks = None

    def _trained(self) -> tuple[nn.Module, nn.Module]:
        """The generator and the discriminator."""
        if self._networks is None:
            with torch.random.fork_rng(devices=[]):
                sequence = np.random.SeedSequence([self.seed, self.fitted])
                torch.manual_seed(int(sequence.generate_state(1)[0]))
                discriminator = self._new_discriminator()
                self._networks = self._new_generator(discriminator), discriminator
        return self._networks

    def _elite(self) -> list[Evaluated]:
        """The best different architectures of those that were trained on."""
        return self._best(self.fitted_on)[: self.settings.elite]

    def _new_discriminator(self) -> nn.Module:
        """Learn from pairs which one is better.

        The probability is the logistic function of a difference (Bradley & Terry, "Rank Analysis
        of Incomplete Block Designs", 1952).
        """
        features = self._features(
            self.space.one_hots([one.architecture for one in self.fitted_on]).float()
        )
        compared = torch.from_numpy(self._compared(self.fitted_on))
        network = _perceptron(features.shape[1], 1)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
        for _ in range(self.settings.steps):
            pairs = torch.randint(len(features), (2, BATCH))
            difference = network(features[pairs[0]]) - network(features[pairs[1]])
            better = torch.sign(compared[pairs[1]] - compared[pairs[0]]).float()
            losses = functional.softplus(-better * difference[:, 0]) * better.abs()
            _step(optimizer, losses.mean())
        return network.requires_grad_(False)

    def _new_generator(self, discriminator: nn.Module) -> nn.Module:
        """Learn to be like the best, and to be preferred to them."""
        elite = self._elite()
        one_hots = self.space.one_hots([one.architecture for one in elite]).float()
        ratios = torch.tensor([one.ratio for one in elite])
        compared = discriminator(self._features(one_hots))[:, 0]
        network = _perceptron(NOISE + 1, self.space.mask.numel())
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        for _ in range(self.settings.steps):
            taken = torch.randint(len(elite), (BATCH,))
            log_p = self._log_probabilities(network, torch.randn(BATCH, NOISE), ratios[taken])
            sampled = functional.gumbel_softmax(log_p, hard=True)
            preferred = discriminator(self._features(sampled))[:, 0] - compared[taken]
            likelihood = (log_p * one_hots[taken]).sum(dim=(1, 2))
            entropy = -(log_p.exp() * log_p).sum(dim=(1, 2))
            gained = functional.logsigmoid(preferred) + self.settings.entropy * entropy
            _step(optimizer, -(gained + likelihood / len(self.space.choices)).mean())
        return network.requires_grad_(False)

    def _generated(self, rng: np.random.Generator) -> list[Architecture]:
        """Samples of the generator for the budget shares of the best."""
        generator, _ = self._trained()
        ratios = torch.tensor([one.ratio for one in self._elite()])
        taken = rng.integers(len(ratios), size=self.settings.draws)
        noise = torch.from_numpy(rng.normal(size=(len(taken), NOISE))).float()
        log_p = self._log_probabilities(generator, noise, ratios[taken]).double().numpy()
        scores = log_p + rng.gumbel(size=log_p.shape)
        return list(dict.fromkeys(most_probable(self.space, one) for one in scores))

    def _log_probabilities(self, generator: nn.Module, noise: Tensor, ratios: Tensor) -> Tensor:
        """Log-probabilities of the options, (samples, choices, max_options), at least -1e4."""
        logits = generator(torch.cat([noise, ratios[:, None]], dim=1))
        logits = logits.view(len(noise), *self.space.mask.shape)
        return functional.log_softmax(logits.masked_fill(~self.space.mask, -1e4), dim=2)

    def _features(self, one_hots: Tensor) -> Tensor:
        """What is chosen and what of it runs, (architectures, features); differentiable."""
        runs = self.space.run_probability(one_hots)
        return torch.cat([one_hots.flatten(1), runs.flatten(1)], dim=1).float()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "observed": [self._row(one) for one in self.observed],
            "fitted_on": [self._row(one) for one in self.fitted_on],
            "counts": [self.seen, self.fitted],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.observed.clear()
        self.observed.extend(self._evaluated(row) for row in state["observed"])
        self.fitted_on = [self._evaluated(row) for row in state["fitted_on"]]
        self.seen, self.fitted = (int(count) for count in state["counts"])
        self._networks = None

    def _row(self, one: Evaluated) -> list[float]:
        return [*self.space.chosen(one.architecture), one.objective, one.ratio]

    def _evaluated(self, row: list[float]) -> Evaluated:
        *chosen, objective, ratio = row
        architecture = self.space.architecture([int(option) for option in chosen])
        return Evaluated(architecture, float(objective), float(ratio))


def _perceptron(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
