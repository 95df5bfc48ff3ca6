"""Strategies that propose single architectures: neighbours, policies, populations, records."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.tiny import decoder_of, table_of, tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit
from hwnas.evaluators.accuracy_table import TableDecoder
from hwnas.spaces import SPACES
from hwnas.strategies import STRATEGIES, Outcome, build_strategy
from hwnas.strategies.bayesian import expected_improvement
from hwnas.strategies.gaussian_process import GaussianProcess
from hwnas.strategies.size_prior import largest_networks, log_sizes

SPACE = tiny_space("nasbench201")
COST = CostModel(SPACE, table_of(SPACE))
DECODER = Decoder([Limit(COST)])
SAMPLED = [name for name, strategy in STRATEGIES.items() if not strategy.uses_gradient]


def make(name: str, decoder=DECODER, seed: int = 0, **given):
    return build_strategy(name, SPACE, seed, given, decoder)


def architecture_of(mixture):
    return SPACE.architecture(mixture.weights.argmax(dim=1).tolist())


def convolutions(architecture) -> float:
    """An objective to minimise: the share of edges without a 3x3 convolution."""
    return 1 - sum(option == "nor_conv_3x3" for _, option in architecture) / 6


def search(strategy, evaluations: int, objective=convolutions, lasting: bool = True) -> list:
    seen = []
    for step in range(evaluations):
        mixture = strategy.ask()
        architecture = architecture_of(mixture)
        value = objective(architecture)
        seen.append(architecture)
        outcome = Outcome(value, value, COST.latency_ms(architecture), lasting=lasting)
        strategy.tell(mixture, outcome, step / evaluations)
    return seen


@pytest.mark.parametrize("name", sorted(SPACES))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_open_options_lead_to_exactly_the_architectures(name: str, data) -> None:
    space = tiny_space(name)
    wanted = space.chosen(space.sample(np.random.default_rng(data.draw(st.integers(0, 2**31)))))
    for row, option in enumerate(wanted):
        assert option in space.open_options(wanted[:row])
    decided: list[int] = []
    for _ in space.choices:
        decided.append(data.draw(st.sampled_from(space.open_options(decided))))
    space.architecture(decided)


# Of a graph each edge may change, as in its paper.
@pytest.mark.parametrize("name", sorted(SPACES.keys() - {"nasbench101"}))
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_mutant_is_a_neighbour(name: str, seed: int) -> None:
    space, rng = tiny_space(name), np.random.default_rng(seed)
    parent = space.sample(rng)
    child = space.mutate(parent, rng)
    # A layer that becomes idle, or that is no longer idle, changes with the depth of its stage.
    idle = {*space.idle(space.chosen(parent)), *space.idle(space.chosen(child))}
    different = {
        choice: (old, new)
        for row, ((choice, old), (_, new)) in enumerate(zip(parent, child, strict=True))
        if old != new and row not in idle
    }
    assert child != parent
    assert len(different) <= (2 if name == "darts" else 1)
    if len(different) == 2:
        # An operator has moved to another edge into the same node.
        assert len({choice.split(">")[1] for choice in different}) == 1
        before, after = zip(*different.values(), strict=True)
        assert sorted(before) == sorted(after)
        assert "none" in before


def test_every_single_change_of_a_cell_is_reached() -> None:
    rng = np.random.default_rng(0)
    parent = SPACE.sample(rng)
    children = {SPACE.mutate(parent, rng) for _ in range(600)}
    assert len(children) == 6 * 4


@pytest.mark.parametrize("name", SAMPLED)
def test_only_architectures_that_keep_the_budget_are_proposed(name: str) -> None:
    fastest_ms, slowest_ms = latency_range_ms(COST)
    limit = Limit(COST, fastest_ms + 0.1 * (slowest_ms - fastest_ms))
    strategy = make(name, Decoder([limit]))
    assert all(limit.is_kept(architecture) for architecture in search(strategy, 25))


# These propose at random, at least in so few evaluations, or have tests of their own.
NOT_LEARNING = (
    "random",
    "largest",
    "spos",
    "bayesian",
    "vae",
    "gan",
    "successive-halving",
    "hyperband",
)


@pytest.mark.parametrize("size_prior", [True, False])
@pytest.mark.parametrize("name", [n for n in SAMPLED if n not in NOT_LEARNING])
def test_learning_strategies_beat_random_search(name: str, size_prior: bool) -> None:
    chance = np.mean([convolutions(a) for a in search(make("random"), 120)])
    searched = search(make(name, size_prior=size_prior), 150)
    learned = np.mean([convolutions(a) for a in searched[90:]])
    assert learned < chance - (0.05 if name in ("reinforce", "enas", "nsga2") else 0.15)


def test_the_model_finds_the_optimum_of_a_simple_objective() -> None:
    # 15 proposals after 20 random draws; random search would take thousands.
    assert min(convolutions(a) for a in search(make("bayesian", size_prior=False), 35)) == 0


PRIOR = [n for n in SAMPLED if "size_prior" in STRATEGIES[n].settings_model.model_fields]


@pytest.fixture(scope="module")
def tight() -> Decoder:
    """A budget that a tenth of the range leaves."""
    fastest_ms, slowest_ms = latency_range_ms(COST)
    return Decoder([Limit(COST, fastest_ms + 0.1 * (slowest_ms - fastest_ms))])


def without_useless_weights(architecture) -> bool:
    one_hot = SPACE.one_hots([architecture])
    sizes = SPACE.coefficient_params_and_macs[1 : SPACE.first_shared, 0]
    live, chosen = (
        SPACE.run_probability(one_hot, rule).flatten().numpy() @ sizes for rule in ("live", "all")
    )
    return live == chosen


@pytest.mark.slow
def test_the_largest_networks_are_those_of_all_cells(tight) -> None:
    every = [SPACE.architecture(list(chosen)) for chosen in itertools.product(range(5), repeat=6)]
    kept = [a for a in every if tight.is_feasible(a) and without_useless_weights(a)]
    for by, column in (("parameters", 0), ("macs", 1)):
        sizes = sorted((SPACE.params_and_macs(a)[column] for a in kept), reverse=True)
        found = list(itertools.islice(largest_networks(SPACE, tight, by), 15))
        assert [SPACE.params_and_macs(a)[column] for a in found] == sizes[:15]
        assert len(set(found)) == 15
        table = TableDecoder(SPACE, [a for a in every if tight.is_feasible(a)])
        listed = itertools.islice(largest_networks(SPACE, table, by, seed=1), 15)
        assert [SPACE.params_and_macs(a)[column] for a in listed] == sizes[:15]
        near = list(itertools.islice(largest_networks(SPACE, tight, by, seed=1), 5))
        assert all(SPACE.params_and_macs(a)[column] >= 0.95 * sizes[4] for a in near)


@pytest.mark.parametrize("name", PRIOR)
def test_the_size_prior_begins_with_the_largest_and_can_be_turned_off(name: str) -> None:
    half = Decoder([Limit(COST, float(np.mean(latency_range_ms(COST))))])
    # What longer trainings change is another preference for large networks.
    given = {"spos": {"train": 0.0}, "gan": {"capacity": 0.0}}.get(name, {})
    means = {}
    for size_prior in (True, False):
        strategy = make(name, half, size_prior=size_prior, **given)
        # All are equally good, so that nothing but the prior prefers large networks.
        seen = search(strategy, 20, objective=lambda _: 0.5)
        means[size_prior] = np.exp(log_sizes(SPACE, seen)[:, 0]).mean()
    largest = SPACE.params_and_macs(next(largest_networks(SPACE, half, "parameters")))[0]
    assert means[True] > 0.85 * largest
    assert means[False] < 0.9 * means[True]


def test_the_model_learns_the_weight_of_the_size() -> None:
    """The error falls with the size in one search and grows with it in the other."""
    weights = []
    for sign in (-1, 1):
        strategy = make("bayesian", startup=12, size_prior=True)
        assert strategy.size_weight() is None

        def error(a, sign=sign) -> float:
            return float(np.exp(sign * 0.5 * log_sizes(SPACE, [a])[0, 0]))

        rng = np.random.default_rng(0)
        for _ in range(30):
            architecture = SPACE.sample(rng)
            value = error(architecture)
            outcome = Outcome(value, value, 0.5, lasting=True)
            strategy.tell(SPACE.one_hot(architecture), outcome, 0.5)
        weights.append(strategy.size_weight())
    assert weights[0] > 0.05
    assert weights[1] < -0.05


@pytest.mark.parametrize("lasting", [True, False])
def test_the_largest_networks_are_the_answer_unless_one_is_more_accurate(tight, lasting) -> None:
    strategy = make("largest", tight, by="macs")
    seen = search(strategy, 6, objective=lambda a: SPACE.chosen(a)[0], lasting=lasting)
    found = strategy.best(tight, 3)
    largest = next(largest_networks(SPACE, tight, "macs"))
    expected = min(seen, key=lambda a: SPACE.chosen(a)[0]) if lasting else largest
    assert found[0] == expected
    assert len(set(found)) == 3


def test_expected_improvement_is_the_mean_over_samples() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.5, 400_000)
    expected = np.maximum(0.1 - draws, 0).mean()
    found = expected_improvement(np.array([0.3]), np.array([0.5]), 0.1)
    assert found == pytest.approx(expected, rel=0.01)


def test_the_process_interpolates_and_is_certain_at_its_observations() -> None:
    x = np.linspace(0, 3, 12)[:, None]
    process = GaussianProcess(groups=1)
    process.log_scales = np.log([0.7, 1e-3])
    process.fit([x], np.sin(x[:, 0]), search_scales=False)
    mean, std = process.predict([x])
    np.testing.assert_allclose(mean, np.sin(x[:, 0]), atol=1e-3)
    between, away = np.array([[0.4]]), np.array([[9.0]])
    assert process.predict([between])[0] == pytest.approx(np.sin(0.4), abs=0.01)
    assert std.max() < 0.02 < process.predict([away])[1][0]


@pytest.mark.parametrize("name", SAMPLED)
def test_the_best_record_is_returned_if_outcomes_are_lasting(name: str) -> None:
    strategy = make(name)
    seen = search(strategy, 30)
    assert convolutions(strategy.best(DECODER)[0]) == min(map(convolutions, seen))


@pytest.mark.parametrize("name", SAMPLED)
def test_outcomes_that_are_not_lasting_are_not_recorded(name: str) -> None:
    strategy = make(name)
    search(strategy, 12, lasting=False)
    assert not strategy.records
    assert len(strategy.best(DECODER, 3)) == 3


def test_the_oldest_member_is_removed_and_the_parent_wins_its_tournament() -> None:
    strategy = make("evolution", population=4, tournament=64)
    seen = search(strategy, 9)
    assert [member for member, _ in strategy.population] == seen[-4:]
    best = min(objective for _, objective in strategy.population)
    parents = [member for member, objective in strategy.population if objective == best]
    child = strategy.propose(np.random.default_rng(0))
    changes = [sum(a != b for a, b in zip(parent, child, strict=True)) for parent in parents]
    assert min(changes) == 1


def test_children_take_every_choice_from_one_of_two_parents() -> None:
    strategy = make("evolution", population=4, tournament=1, crossover=1.0, size_prior=False)
    rng, crossed = np.random.default_rng(0), 0
    members = [SPACE.sample(rng) for _ in range(4)]
    strategy.population.extend((member, 0.0) for member in members)
    for _ in range(30):
        child = strategy.propose(rng)
        pairs = itertools.combinations_with_replacement(members, 2)
        taken = [
            all(option in (a, b) for option, a, b in zip(child, *parents, strict=True))
            for parents in pairs
        ]
        changes = [sum(a != b for a, b in zip(child, m, strict=True)) for m in members]
        # A child that equals a parent is mutated.
        assert any(taken) or min(changes) == 1
        crossed += any(taken) and min(changes) > 1
    assert crossed > 5


@pytest.mark.parametrize("space", sorted(SPACES))
def test_children_are_valid_in_every_space(space: str) -> None:
    rng, tiny = np.random.default_rng(0), tiny_space(space)
    for _ in range(20):
        first, second = tiny.sample(rng), tiny.sample(rng)
        tiny.validate(tiny.cross(first, second, rng))
        assert tiny.cross(first, first, rng) == first


def test_single_paths_train_before_evolution_begins() -> None:
    strategy = make("spos", population=4, tournament=4, train=0.5)
    seen = search(strategy, 40)
    assert [member for member, _ in strategy.population] == seen[-4:]
    assert np.mean([convolutions(a) for a in seen[28:]]) < np.mean(
        [convolutions(a) for a in seen[:20]]
    )


@pytest.mark.parametrize("name", ["reinforce", "enas"])
@pytest.mark.parametrize("space", sorted(SPACES))
def test_a_policy_draws_open_options_only(name: str, space: str) -> None:
    """The open options' probabilities sum to 1 at each decision; those of the others are 0."""
    searched = tiny_space(space)
    strategy = build_strategy(name, searched, 1, {}, decoder_of(searched))
    chosen = searched.chosen(strategy.propose(np.random.default_rng(2)))
    log_p = strategy._log_probabilities(chosen[:-1])
    for row in range(len(chosen)):
        opened = list(searched.open_options(chosen[:row]))
        assert float(log_p[row, opened].detach().exp().sum()) == pytest.approx(1, abs=1e-5)
        closed = [i for i in range(searched.max_options) if i not in opened]
        assert torch.isneginf(log_p[row, closed]).all()


def test_reinforce_follows_the_gradient_of_the_expected_reward() -> None:
    """The mean of its estimates against the exact gradient, by enumeration of two choices."""
    strategy = make("reinforce", baseline=0.0)
    rows, options = 2, SPACE.max_options
    reward = torch.rand(options, options, generator=torch.Generator().manual_seed(0))
    logits = torch.zeros(rows, options, requires_grad=True)
    p = logits.softmax(dim=1)
    expected = torch.autograd.grad((p[0, :, None] * p[1] * reward).sum(), logits)[0]
    estimate = torch.zeros_like(expected)
    for i, j in itertools.product(range(options), repeat=2):
        architecture = SPACE.architecture([i, j, 0, 0, 0, 0])
        strategy.pending = [(architecture, float(reward[i, j]))]
        log_p, _ = strategy._log_p_and_entropy()
        table = strategy.policy["logits"]
        (gradient,) = torch.autograd.grad((log_p * reward[i, j]).sum(), table)
        estimate += gradient[:rows] / options**2
    torch.testing.assert_close(estimate, expected)


def test_the_first_step_of_ppo_is_that_of_reinforce() -> None:
    """With the ratio at 1 both have the same gradient."""
    stepped = []
    for update in ("reinforce", "ppo"):
        strategy = make("reinforce", update=update, epochs=1)
        strategy.baseline = 0.3
        strategy.learn(SPACE.architecture([1, 2, 3, 4, 0, 1]), Outcome(-1.0, -1.0, 0.0))
        stepped.append(strategy.policy["logits"].detach().clone())
    torch.testing.assert_close(*stepped)
    assert stepped[0].abs().sum() > 0


def test_ppo_has_no_gradient_once_the_ratio_is_clipped() -> None:
    """The first epoch takes a large step, so that the ratio is clipped in the later ones."""
    strategy = make("reinforce", update="ppo", epochs=5, learning_rate=1.0, clip=0.1)
    strategy.optimizer = torch.optim.SGD(strategy.policy.parameters(), lr=1.0)
    strategy.baseline = 0.0
    strategy.learn(SPACE.architecture([1] * 6), Outcome(-1.0, -1.0, 0.0))
    # The gradient of log p at the uniform policy, once.
    expected = torch.full(SPACE.mask.shape, -0.2)
    expected[:, 1] = 0.8
    torch.testing.assert_close(strategy.policy["logits"].detach(), expected)


@pytest.mark.parametrize("name", SAMPLED)
def test_proposals_depend_on_the_seed_alone(name: str) -> None:
    assert search(make(name), 15) == search(make(name), 15)
    assert search(make(name), 15) != search(make(name, seed=1), 15)


@pytest.mark.parametrize("name", SAMPLED)
def test_probabilities_count_the_latest_proposals(name: str) -> None:
    strategy = make(name)
    assert strategy.probabilities() is None
    seen = search(strategy, 60)
    counted = strategy.probabilities()
    assert counted is not None
    for row, choice in zip(counted.tolist(), SPACE.choices, strict=True):
        taken = [architecture[choice.name] for architecture in seen[-50:]]
        assert row == pytest.approx([taken.count(option) / 50 for option in choice.options])
