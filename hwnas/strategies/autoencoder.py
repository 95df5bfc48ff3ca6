"""A variational autoencoder over the choices of any search space.

The encoder reads what an architecture runs, and the decoder gives a distribution over the options
of each choice, so that every point of the latent space is an architecture. It is trained without
any scores, as in arch2vec (Yan et al., "Does Unsupervised Architecture Representation Learning Help
Neural Architecture Search?", NeurIPS 2020, arXiv 2006.06936).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace

SAMPLES_OF_STEP, MOST_SAMPLES = 4, 8000
"""Random architectures from which it is trained, for each step and at most."""
BATCH = 128
HIDDEN = 128
LEARNING_RATE = 1e-2
DIVERGENCE = 2e-2
"""Weight of the Kullback-Leibler divergence beside the cross-entropy."""
NOISE = 0.05
"""Standard deviation that the encoder has at least, which keeps neighbours of a code alike."""


@dataclass(frozen=True)
class Quality:
    """How well an autoencoder represents a space.

    Attributes:
        reconstructed: share of unseen architectures that come back as networks that compute the
            same.
        valid: share of decoded prior samples that are architectures of the space.
        unique: share of different ones among them.
        step: mean number of choices that change in one of ten equal steps along a line between two
            architectures.
        apart: mean number of choices in which the ends of these lines differ.
    """

    reconstructed: float
    valid: float
    unique: float
    step: float
    apart: float


class _Residual(nn.Module):
    """A linear map, to which a network with one hidden layer is added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.hidden = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs)."""
        y: Tensor = self.linear(x) + self.hidden(x)
        return y


class ArchitectureVae(nn.Module):
    """Encoder and decoder, each a linear map with a hidden layer beside it.

    Args:
        space: the search space.
        seed: of the weights and the training.

    Attributes:
        latent: number of latent dimensions, one less than its options for each choice. That is the
            dimension of the space's one-hot mixtures; a smaller code has to keep several choices
            apart along one direction, and loses some of them.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__()
        self.space, self.seed = space, seed
        choices, options = space.mask.shape
        self.latent = int(space.mask.sum()) - choices
        inputs = choices * (space.max_parts + options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = _Residual(inputs, 2 * self.latent)
            self.decoder = _Residual(self.latent, choices * options)
        self.representatives: dict[Hashable, Architecture] = {}

    def fit(self, steps: int) -> None:
        """Train on random architectures.

        Args:
            steps: training steps of `BATCH` architectures.
        """
        rng = np.random.default_rng([self.seed, 1])
        drawn = [self.space.sample(rng) for _ in range(min(SAMPLES_OF_STEP * steps, MOST_SAMPLES))]
        for architecture in drawn:
            self.representatives.setdefault(self.space.identity(architecture), architecture)
        inputs, one_hots = self._inputs(drawn), self._one_hots(drawn)
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            taken = torch.randint(len(drawn), (BATCH,), generator=generator)
            mean, deviation = self._moments(inputs[taken])
            z = mean + deviation * torch.randn(mean.shape, generator=generator)
            reconstruction = -(one_hots[taken] * self.log_probabilities(z)).sum(dim=(1, 2))
            divergence = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).sum(dim=1)
            loss = (reconstruction + DIVERGENCE * divergence).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        self.requires_grad_(False)

    def encode(self, architectures: Sequence[Architecture]) -> Tensor:
        """The means of the latent codes, (architectures, latent).

        Networks that the space knows to compute the same have one code, as far as the training
        has met them.
        """
        with torch.no_grad():
            return self._moments(self._inputs(architectures))[0]

    def log_probabilities(self, z: Tensor) -> Tensor:
        """Log-probabilities of the options at latent codes, differentiable.

        Args:
            z: (codes, latent).

        Returns:
            (codes, choices, max_options); -1e9 where a choice has no such option.
        """
        logits = self.decoder(z).view(len(z), *self.space.mask.shape)
        return functional.log_softmax(logits.masked_fill(~self.space.mask, -1e9), dim=2)

    def decode(self, z: Tensor) -> list[Architecture]:
        """The architecture of each code (codes, latent): the most probable open options in turn."""
        with torch.no_grad():
            scores = self.log_probabilities(z)
        return [most_probable(self.space, one.numpy()) for one in scores]

    def quality(self, count: int, rng: np.random.Generator) -> Quality:
        """Measure reconstruction, validity, uniqueness and smoothness on so many architectures."""
        space = self.space
        drawn = [space.sample(rng) for _ in range(count)]
        codes = self.encode(drawn)
        same = [
            space.identity(one) == space.identity(other)
            for one, other in zip(drawn, self.decode(codes), strict=True)
        ]
        sampled = self.decode(torch.from_numpy(rng.normal(size=(count, self.latent))).float())
        for architecture in sampled:
            space.validate(architecture)
        steps, apart = [], []
        for first, second in zip(codes[::2], codes[1::2], strict=False):
            shares = torch.linspace(0, 1, 11)[:, None]
            line = self.decode((1 - shares) * first + shares * second)
            options = np.array([space.chosen(architecture) for architecture in line])
            steps.append((options[1:] != options[:-1]).sum(axis=1).mean())
            apart.append((options[0] != options[-1]).sum())
        return Quality(
            float(np.mean(same)),
            1.0,
            len(set(sampled)) / count,
            float(np.mean(steps)),
            float(np.mean(apart)),
        )

    def _moments(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the codes, (architectures, latent) each."""
        mean, log_deviation = self.encoder(inputs).chunk(2, dim=1)
        return mean, functional.softplus(log_deviation) + NOISE

    def _inputs(self, architectures: Sequence[Architecture]) -> Tensor:
        """What runs and what is chosen, (architectures, choices * (max_parts + max_options))."""
        known = self.representatives
        read = [known.get(self.space.identity(a), a) for a in architectures]
        one_hots = self.space.one_hots(read)
        runs = self.space.run_probability(one_hots)
        return torch.cat([runs.flatten(1), one_hots.flatten(1)], dim=1).float()

    def _one_hots(self, architectures: Sequence[Architecture]) -> Tensor:
        """What is to be decoded: the representatives, (architectures, choices, max_options)."""
        known = self.representatives
        read = [known.get(self.space.identity(a), a) for a in architectures]
        return self.space.one_hots(read).float()


def most_probable(space: SearchSpace, scores: np.ndarray) -> Architecture:
    """The architecture that takes the best of the open options for one choice after the other.

    Args:
        space: the search space.
        scores: (choices, max_options).
    """
    decided: list[int] = []
    for row in scores:
        decided.append(max(space.open_options(decided), key=lambda option: row[option]))
    return space.architecture(decided)
