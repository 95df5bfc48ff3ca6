"""The autoencoder of every space, and the search in its latent space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny import decoder_of, tiny_space

from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.spaces import SPACES
from hwnas.strategies import build_strategy
from hwnas.strategies.autoencoder import ArchitectureVae
from hwnas.strategies.base import Outcome
from hwnas.strategies.gaussian_process import GaussianProcess
from hwnas.strategies.vae import drawn_function

SPACE = tiny_space("nasbench201")
SETTINGS = {"startup": 4, "training": 10, "size_prior": False, "starts": 4, "steps": 3}


@pytest.fixture(scope="module")
def vae() -> ArchitectureVae:
    vae = ArchitectureVae(SPACE, 0)
    vae.fit(400)
    return vae


def test_unseen_cells_come_back_and_samples_are_different_cells(vae) -> None:
    quality = vae.quality(100, np.random.default_rng(7))
    assert quality.reconstructed >= 0.99
    assert quality.valid == 1
    assert quality.unique > 0.9
    # Ten steps that change every differing choice once.
    assert quality.apart / 10 - 1e-9 <= quality.step < 1.2 * quality.apart / 10


def test_cells_that_compute_the_same_have_one_code(vae, rng) -> None:
    by_identity: dict[str, list] = {}
    for _ in range(300):
        architecture = SPACE.sample(rng)
        if SPACE.identity(architecture) in vae.representatives:
            by_identity.setdefault(SPACE.identity(architecture), []).append(architecture)
    equal = [found for found in by_identity.values() if len(set(found)) > 1]
    assert equal
    for found in equal:
        codes = vae.encode(found)
        torch.testing.assert_close(codes, codes[:1].expand_as(codes))


@pytest.mark.parametrize("space", sorted(SPACES))
def test_any_code_is_an_architecture_in_every_space(space: str) -> None:
    searched = tiny_space(space)
    vae = ArchitectureVae(searched, 0)
    vae.fit(2)
    codes = 5 * torch.randn(10, vae.latent)
    for architecture in vae.decode(codes):
        searched.validate(architecture)
    p = vae.log_probabilities(codes).exp()
    torch.testing.assert_close(p.sum(dim=2), torch.ones(p.shape[:2]))
    assert (p[:, ~searched.mask] == 0).all()


def test_functions_are_drawn_from_the_posterior(rng) -> None:
    """Means and deviations over draws are those that the process predicts."""
    features = [rng.normal(size=(15, 3)), rng.normal(size=(15, 2))]
    process = GaussianProcess(groups=2, linear=1)
    process.fit(features, rng.normal(size=15), search_scales=False)
    asked = [rng.normal(size=(5, 3)), rng.normal(size=(5, 2))]
    tensors = [torch.from_numpy(group) for group in asked]
    draws = np.array([drawn_function(process, rng, 512)(*tensors).numpy() for _ in range(1500)])
    mean, deviation = process.predict(asked)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.12)
    np.testing.assert_allclose(draws.std(axis=0), deviation, rtol=0.12)


def advance(strategy, steps: int) -> None:
    for _ in range(steps):
        mixture = strategy.ask()
        chosen = SPACE.chosen(SPACE.most_likely(mixture))
        error = 0.9 - 0.1 * chosen.count(2)
        strategy.tell(mixture, Outcome(error, error, 0.5, lasting=True), 0.0)


def test_the_search_finds_what_is_good_within_the_budget() -> None:
    strategy = build_strategy("vae", SPACE, 0, SETTINGS | {"training": 60}, decoder_of(SPACE))
    advance(strategy, 20)
    assert SPACE.chosen(strategy.best(decoder_of(SPACE))[0]).count(2) >= 5


def test_a_search_in_the_latent_space_is_resumed(tmp_path) -> None:
    first, reference = (
        build_strategy("vae", SPACE, 3, SETTINGS, decoder_of(SPACE)) for _ in range(2)
    )
    advance(reference, 8)
    advance(first, 6)
    save_checkpoint(tmp_path, "search", 6, {"strategy": first.state_dict()})
    resumed = build_strategy("vae", SPACE, 3, SETTINGS, decoder_of(SPACE))
    resumed.load_state_dict(load_checkpoint(tmp_path, "search")[1]["strategy"])
    advance(resumed, 2)
    assert resumed.observed == reference.observed
    assert torch.equal(resumed.ask().weights, reference.ask().weights)
