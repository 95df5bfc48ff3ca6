"""Search in the latent space of a variational autoencoder.

A Gaussian process over latent codes and sizes predicts the scores. Proposals come from functions
that are drawn from it (Thompson sampling) and minimised over the latent space by gradient steps,
then decoded within the budgets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from pydantic import Field
from scipy.linalg import cho_solve
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.autoencoder import ArchitectureVae
from hwnas.strategies.base import Decoder
from hwnas.strategies.bayesian import BayesianSettings, BayesianStrategy
from hwnas.strategies.gaussian_process import GaussianProcess

WAVES = 128
"""Random Fourier features that approximate a function of the prior."""
STEP = 0.1
"""Step size of Adam in the latent space."""
REPAIRED = 2
"""Minima over the budgets that are decoded exactly instead, since that takes longer."""


class VaeSettings(BayesianSettings):
    """Settings of the model and its candidates, and of the autoencoder."""

    training: int = Field(
        40, ge=1, description="training steps of the autoencoder for each choice of the space"
    )
    starts: int = Field(
        12, ge=1, description="latent codes from which a drawn function is minimised"
    )
    steps: int = Field(15, ge=0, description="gradient steps from each of them")
    pool: int = Field(50, ge=1, description="random candidates for each proposal")
    mutants: int = Field(10, ge=0, description="number of mutants of each parent")


class VaeStrategy(BayesianStrategy):
    """Proposes minima of functions that are drawn from a model over latent codes.

    The candidate of the largest expected improvement is proposed, as in `bayesian`; candidates are
    the minima, mutants of the best architectures and random ones.
    """

    name = "vae"
    paper = (
        "Yan et al., Does Unsupervised Architecture Representation Learning Help Neural "
        "Architecture Search?, NeurIPS 2020, arXiv 2006.06936"
    )
    settings_model = VaeSettings
    settings: VaeSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: VaeSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        counts = torch.from_numpy(space.coefficient_params_and_macs).double()
        self._fixed_size, self._part_sizes = counts[0], counts[1 : space.first_shared]

    @cached_property
    def vae(self) -> ArchitectureVae:
        """The autoencoder, trained at first use; it depends on the seed alone."""
        vae = ArchitectureVae(self.space, self.seed)
        vae.fit(self.settings.training * len(self.space.choices))
        return vae

    def _candidates(self, rng: np.random.Generator) -> list[Architecture]:
        known = {architecture for architecture, _ in self.observed}
        minima = [a for a in self._minima(rng) if a not in known]
        return list(dict.fromkeys([*minima, *super()._candidates(rng)]))

    def _features(self, architectures: list[Architecture]) -> list[np.ndarray]:
        """Latent codes, (n, latent), and the columns beside them of `bayesian`, (n, 2 or 3)."""
        sizes = super()._features(architectures)[1]
        return [self.vae.encode(architectures).double().numpy(), sizes]

    def _minima(self, rng: np.random.Generator) -> list[Architecture]:
        """Architectures within the budgets at minima of a function drawn from the model."""
        self._fit()
        function = drawn_function(self.model, rng, WAVES)
        ranked = sorted(self.observed, key=lambda pair: pair[1])
        parents = [a for a, _ in ranked[: self.settings.starts // 2]]
        codes = self.vae.encode(parents).double()
        random = rng.normal(size=(self.settings.starts - len(codes), self.vae.latent))
        z = torch.cat([codes, torch.from_numpy(random)]).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=STEP)
        for _ in range(self.settings.steps):
            optimizer.zero_grad()
            torch.autograd.backward(function(z, self._expected_sizes(z)).sum())
            optimizer.step()
        return self._decoded(z.detach())

    def _expected_sizes(self, z: Tensor) -> Tensor:
        """What stands beside the codes in the features, for the decoded distributions.

        Args:
            z: (codes, latent).

        Returns:
            (codes, 2 or 3), differentiable; what earlier searches predict counts as their mean, 0.
        """
        weights = self.vae.log_probabilities(z.float()).exp().double()
        runs = self.space.run_probability(weights).flatten(start_dim=1)
        logs = (self._fixed_size + runs @ self._part_sizes).clamp_min(1.0).log()
        mean, std = torch.from_numpy(self.size_mean), torch.from_numpy(self.size_std)
        sizes = (logs - mean) / std
        if self.experience is None:
            return sizes
        return torch.cat([sizes, torch.zeros(len(z), 1, dtype=sizes.dtype)], dim=1)

    def _decoded(self, z: Tensor) -> list[Architecture]:
        """The codes' architectures; a few that are over a budget are decoded within it."""
        found: list[Architecture] = []
        repaired = 0
        for code, architecture in zip(z, self.vae.decode(z.float()), strict=True):
            if self.decoder.is_feasible(architecture):
                found.append(architecture)
            elif repaired < REPAIRED:
                repaired += 1
                with torch.no_grad():
                    scores = self.vae.log_probabilities(code[None].float())[0]
                found += self.decoder.best(scores.clamp_min(-1e3).double().numpy())
        return found


def drawn_function(
    process: GaussianProcess, rng: np.random.Generator, waves: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Draw a function from a posterior with two groups of features and a linear part of the second.

    Matheron's rule with random Fourier features: Wilson et al., "Efficiently Sampling Functions
    from Gaussian Process Posteriors", ICML 2020 (arXiv 2002.09309), equation 13.

    Args:
        process: has been fitted.
        rng: draws the function.
        waves: number of Fourier features of the prior.

    Returns:
        A differentiable function of (n, features) of both groups, to (n,) targets.
    """
    lengths, slope, noise = np.exp(process.log_scales[:2]), *np.exp(process.log_scales[-2:])
    observed = [torch.from_numpy(np.ascontiguousarray(f)) for f in process.features]
    frequencies = [
        torch.from_numpy(rng.normal(size=(f.shape[1], waves)) / length)
        for f, length in zip(observed, lengths, strict=True)
    ]
    phases = torch.from_numpy(rng.uniform(0, 2 * np.pi, waves))
    weights = torch.from_numpy(rng.normal(size=waves) * np.sqrt(2 / waves))
    slopes = torch.from_numpy(rng.normal(size=observed[1].shape[1]) * slope)

    def prior(x: Tensor, sizes: Tensor) -> Tensor:
        waved = torch.cos(x @ frequencies[0] + sizes @ frequencies[1] + phases)
        return waved @ weights + sizes @ slopes

    scale = np.sqrt(process.signal)
    targets = process.root @ (process.root.T @ process.weights) / scale
    drawn = prior(*observed).numpy() + noise * rng.normal(size=len(targets))
    update = torch.from_numpy(cho_solve((process.root, True), targets - drawn))

    def function(x: Tensor, sizes: Tensor) -> Tensor:
        distances = sum(
            torch.cdist(new, old) ** 2 / length**2
            for new, old, length in zip((x, sizes), observed, lengths, strict=True)
        )
        kernel = torch.exp(-0.5 * distances) + slope**2 * sizes @ observed[1].T
        values: Tensor = prior(x, sizes) + kernel @ update
        found: Tensor = process.centre + process.spread * scale * values
        return found

    return function
