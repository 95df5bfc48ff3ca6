"""Differentiable strategies against the definitions of their papers."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.tiny import decoder_of, tiny_space

from hwnas.strategies import STRATEGIES, Outcome, build_strategy
from hwnas.strategies.gradient import GradientStrategy

SPACE = tiny_space("nasbench201")
DECODER = decoder_of(SPACE)


def make(name: str, **settings):
    return build_strategy(name, SPACE, 0, settings, DECODER)


def tell(strategy, gradient: torch.Tensor, progress: float) -> None:
    mixture = strategy.ask()
    strategy.tell(mixture, Outcome(1.0, 1.0, 0.5, gradient), progress)


def favour(row: int, option: int) -> torch.Tensor:
    """A gradient of the objective that increases the weight of one option."""
    gradient = torch.zeros(SPACE.mask.shape)
    gradient[row, option] = -1.0
    return gradient


@pytest.mark.parametrize(
    "name", ["darts", "darts-minus", "fairdarts", "pc-darts", "snas", "gdas", "drnas"]
)
def test_an_option_that_lowers_the_objective_is_decoded(name: str) -> None:
    strategy = make(name, learning_rate=0.2)
    for step in range(60):
        tell(strategy, favour(2, 3), step / 60)
    (best,) = strategy.best(DECODER)
    assert best["1>2"] == SPACE.choices[2].options[3]
    assert strategy.entropy() < 1


GRADIENT = [name for name, kind in STRATEGIES.items() if issubclass(kind, GradientStrategy)]


@pytest.mark.parametrize("name", GRADIENT)
def test_an_entropy_weight_decides_the_choices(name: str) -> None:
    """Even without a gradient of the objective; the weight grows from 0 during the search."""
    nothing = torch.zeros(SPACE.mask.shape)
    # Beta-decay pulls towards a uniform distribution.
    without_decay = {"beta_decay": 0.0} if name == "darts" else {}
    decided = make(name, learning_rate=0.1, entropy=100.0, **without_decay)
    undecided = make(name, learning_rate=0.1, entropy=0.0, **without_decay)
    before = decided.entropy()
    for strategy in (decided, undecided):
        tell(strategy, nothing, 0.0)
    torch.testing.assert_close(decided.parameters, undecided.parameters)
    for _ in range(80):
        tell(decided, nothing, 0.5)
        tell(undecided, nothing, 0.5)
    assert decided.parameters.isfinite().all()
    assert decided.entropy() < 0.7 * before
    assert decided.entropy() < undecided.entropy()


def test_the_mean_entropy_is_that_of_the_normalised_weights() -> None:
    strategy = make("fairdarts")
    with torch.no_grad():
        strategy.parameters.copy_(torch.randn(SPACE.mask.shape, generator=torch.manual_seed(0)))
    expected = []
    for row, options in zip(strategy.parameters.tolist(), SPACE.mask.tolist(), strict=True):
        open_to = [1 / (1 + math.exp(-x)) for x, there in zip(row, options, strict=True) if there]
        shares = [x / sum(open_to) for x in open_to]
        expected.append(-sum(p * math.log(p) for p in shares) / math.log(len(shares)))
    assert strategy.entropy() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_gdas_runs_one_option_with_the_gradient_of_the_gumbel_softmax() -> None:
    strategy = make("gdas", temperature=2.0, temperature_end=2.0)
    mixture = strategy.ask()
    assert mixture.active is not None
    assert all(len(options) == 1 for options in mixture.active)
    hard = mixture.weights.detach()
    assert torch.equal(hard.round(), hard)
    assert torch.equal(hard.sum(dim=1), torch.ones(6))
    assert [int(i) for i in hard.argmax(dim=1)] == [options[0] for options in mixture.active]
    weight = torch.randn(SPACE.mask.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((mixture.weights * weight).sum(), strategy.parameters)
    soft = make("snas", temperature=2.0, temperature_end=2.0)
    (expected,) = torch.autograd.grad((soft.ask().weights * weight).sum(), soft.parameters)
    torch.testing.assert_close(found, expected)


def test_gumbel_samples_have_the_probabilities_of_the_options() -> None:
    strategy = make("gdas")
    with torch.no_grad():
        strategy.parameters[0] = torch.tensor([0.0, 1.0, 2.0, 0.0, -1.0])
    p = strategy.log_probabilities()[0].exp()
    draws = torch.stack([strategy.ask().weights.detach()[0] for _ in range(1500)])
    assert (draws.mean(dim=0) - p).abs().max() < 4 * math.sqrt(0.25 / 1500)


def test_temperature_falls_from_soft_to_hard() -> None:
    strategy = make("snas", temperature=10.0, temperature_end=1e-4)
    start = strategy.ask().weights.detach()
    strategy.progress = 1.0
    end = strategy.ask().weights.detach()
    assert start.max() < 0.5
    assert end.max(dim=1).values.min() > 0.999


def test_drnas_samples_have_the_mean_of_their_dirichlet_distribution() -> None:
    strategy = make("drnas", prune_at=1.0)
    with torch.no_grad():
        strategy.parameters[1] = torch.tensor([0.5, 2.0, -1.0, 0.0, 1.0])
    draws = torch.stack([strategy.ask().weights.detach()[1] for _ in range(1500)])
    torch.testing.assert_close(draws.sum(dim=1), torch.ones(1500))
    concentration = strategy.concentration().detach()[1]
    mean = concentration / concentration.sum()
    deviation = (mean * (1 - mean) / (concentration.sum() + 1)).sqrt()
    assert ((draws.mean(dim=0) - mean).abs() < 4 * deviation / math.sqrt(1500)).all()


def test_drnas_prunes_the_weak_options_once() -> None:
    strategy = make("drnas", prune_at=0.5, prune_to=0.4)
    with torch.no_grad():
        strategy.parameters[:] = torch.arange(5.0)
    tell(strategy, torch.zeros(SPACE.mask.shape), 0.4)
    assert strategy.ask().active == ((0, 1, 2, 3, 4),) * 6
    tell(strategy, torch.zeros(SPACE.mask.shape), 0.5)
    mixture = strategy.ask()
    assert mixture.active == ((3, 4),) * 6
    assert (mixture.weights[:, :3] == 0).all()
    resumed = make("drnas", prune_at=0.5, prune_to=0.4)
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.ask().active == strategy.ask().active


def test_fairdarts_options_do_not_compete() -> None:
    strategy = make("fairdarts", weight_decay=0.0, zero_one=0.0, learning_rate=0.1)
    before = strategy.ask().weights.detach().clone()
    tell(strategy, favour(0, 1), 0.1)
    after = strategy.ask().weights.detach()
    assert after[0, 1] > before[0, 1]
    changed = after != before
    assert changed.sum() == 1


def test_the_zero_one_loss_drives_weights_apart() -> None:
    strategy = make("fairdarts", weight_decay=0.0, zero_one=10.0, learning_rate=0.1)
    for step in range(50):
        tell(strategy, torch.zeros(SPACE.mask.shape), step / 50)
    weights = strategy.ask().weights.detach()
    assert ((weights < 0.1) | (weights > 0.9)).all()


def test_the_auxiliary_skip_fades_out() -> None:
    strategy = make("darts-minus", auxiliary_skip=1.0)
    skip = SPACE.choices[0].options.index("skip_connect")
    plain = strategy.log_probabilities().exp()
    excess = (strategy.ask().weights - plain).detach()
    assert torch.allclose(excess[:, skip], torch.ones(6))
    assert excess.sum() == pytest.approx(6)
    strategy.progress = 1.0
    torch.testing.assert_close(strategy.ask().weights, plain)


def test_edge_weights_of_pc_darts_decide_which_edges_are_kept() -> None:
    space = tiny_space("darts", nodes=2)
    decoder = decoder_of(space)
    strategy = build_strategy("pc-darts", space, 0, {"learning_rate": 0.2}, decoder)
    weights = strategy.mixing_weights().detach()
    for node in space.node_inputs():
        assert float(weights[node].sum()) == pytest.approx(1.0)
    gradient = torch.zeros(space.mask.shape)
    gradient[2, :] = 1.0  # increases the objective: the first edge of the node with three inputs
    for step in range(60):
        strategy.tell(strategy.ask(), Outcome(1.0, 1.0, 0.5, gradient), step / 60)
    (best,) = strategy.best(decoder)
    assert best["normal/0>3"] == "none"
