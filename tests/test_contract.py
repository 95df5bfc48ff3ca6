"""The contract of all registered spaces and strategies, in all combinations."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from helpers.tiny import TINY_SIZES, table_of, tiny_space

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms, params_and_macs_ranges
from hwnas.budget.limit import Limit
from hwnas.errors import InputError
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.spaces import SPACES
from hwnas.spaces.traced.described import TRACED
from hwnas.strategies import STRATEGIES, build_strategy
from hwnas.strategies.base import probability_rows
from hwnas.supernet.evaluate import evaluate_mixture

SETTINGS = {"darts": {"learning_rate": 0.1, "beta_decay": 1.0}}
ENUMERABLE = {
    "darts": {"nodes": 1},
    "elastic": {"kernels": [3]},
    "nasnet": {"blocks": 1, "operators": ["skip_connect", "sep_conv_3x3"]},
}
"""Options with which all architectures of a space can be enumerated."""
KINDS = [*sorted(SPACES), TRACED]
"""The registered spaces, and one that is found in a model."""
IMAGES = (4, TINY_SIZES["input_channels"], TINY_SIZES["height"], TINY_SIZES["width"])


@pytest.fixture(params=KINDS)
def space(request):
    return tiny_space(request.param)


@pytest.fixture
def cost(space) -> CostModel:
    return CostModel(space, table_of(space))


@pytest.fixture(params=sorted(STRATEGIES))
def make_strategy(request, space, cost):
    decoder = Decoder([Limit(cost)])
    settings = SETTINGS.get(request.param, {})
    return lambda seed=0: build_strategy(request.param, space, seed, settings, decoder)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(TINY_SIZES["classes"], (IMAGES[0],), generator=generator)
    return torch.randn(IMAGES, generator=generator), labels


def loss_of(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of the classes' scores; those of a map are the means over its places."""
    scores = outputs.flatten(2).mean(dim=2) if outputs.ndim > 2 else outputs
    return torch.nn.functional.cross_entropy(scores, labels)


def advance(strategy, supernet, cost, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        mixture = strategy.ask()
        outcome = evaluate_mixture(
            supernet,
            [Limit(cost, 1.0)],
            mixture,
            batch(step),
            multiplier=0.5,
            with_gradient=strategy.uses_gradient,
            loss_of=loss_of,
        )
        strategy.tell(mixture, outcome, step / 10)


class TestSpace:
    def test_samples_are_valid_and_differ_and_take_every_option(self, space, rng) -> None:
        samples = [space.sample(rng) for _ in range(20)]
        for architecture in samples:
            space.validate(architecture)
        assert len(set(samples)) > 10
        drawn = [space.chosen(space.sample(rng)) for _ in range(300)]
        for row, choice in enumerate(space.choices):
            possible = {option for chosen in drawn for option in space.open_options(chosen[:row])}
            assert {chosen[row] for chosen in drawn} == possible, choice.name

    def test_architecture_round_trips_through_json(self, space, rng) -> None:
        architecture = space.sample(rng)
        text = json.dumps(architecture.to_json())
        assert Architecture.from_json(json.loads(text)) == architecture

    def test_unknown_names_are_refused(self, space, rng) -> None:
        chosen = dict(space.sample(rng).options)
        first = next(iter(chosen))
        for broken in (
            chosen | {first: "no_such_operator"},
            {f"{name}x": option for name, option in chosen.items()},
            dict(list(chosen.items())[1:]),
        ):
            with pytest.raises(InputError):
                space.architecture(broken)

    def test_supernet_of_one_path_is_the_path_alone(self, space, rng) -> None:
        """Options that are not active have no effect, so they need not be computed."""
        supernet = space.supernet().eval()
        mixture = space.one_hot(space.sample(rng))
        images = torch.randn(IMAGES)
        alone = supernet(images, mixture)
        among_all = supernet(images, Mixture(mixture.weights))
        torch.testing.assert_close(alone, among_all)

    def test_gradient_by_the_mixture_is_that_of_float64_differences(self, space) -> None:
        torch.manual_seed(0)
        supernet = space.supernet().double().train()
        images, labels = batch()
        weights = torch.rand(space.mask.shape, dtype=torch.float64) * space.mask

        def loss(w: torch.Tensor) -> torch.Tensor:
            net = copy.deepcopy(supernet)
            return loss_of(net(images.double(), Mixture(w)), labels)

        attached = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(attached), attached)
        direction = torch.randn_like(weights) * space.mask
        step = 1e-6
        with torch.no_grad():
            difference = loss(weights + step * direction) - loss(weights - step * direction)
        expected = difference / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-8)

    def test_network_in_eval_mode_is_deterministic(self, space, rng) -> None:
        network = space.network(space.sample(rng)).eval()
        images = torch.randn(IMAGES)
        assert torch.equal(network(images), network(images))

    def test_size_and_ranges_are_those_of_all_architectures(self, space) -> None:
        small = tiny_space(space.name, **ENUMERABLE.get(space.name, {}))

        def complete(decided: list[int]) -> list[list[int]]:
            if len(decided) == len(small.choices):
                return [decided]
            return [c for i in small.open_options(decided) for c in complete([*decided, i])]

        architectures = {small.architecture(chosen) for chosen in complete([])}
        assert small.size() == len(architectures)
        counts = np.array([small.params_and_macs(architecture) for architecture in architectures])
        params, macs = np.stack([counts.min(axis=0), counts.max(axis=0)], axis=1).tolist()
        assert params_and_macs_ranges(small) == (tuple(params), tuple(macs))

    def test_bad_options_name_the_key(self, space) -> None:
        if space.name == TRACED:
            pytest.skip("a model's space has no options to choose")
        for key, value in (("channels", 0), ("height", "tall"), ("no_such_key", 1)):
            with pytest.raises(InputError, match=key):
                tiny_space(space.name, **{key: value})


class TestCost:
    def test_one_hot_costs_the_sum_of_its_operators(self, space, cost, rng) -> None:
        """Shared work is counted once."""
        table = table_of(space)
        for _ in range(5):
            architecture = space.sample(rng)
            runs = space.run_probability(space.one_hot(architecture).weights, cost.edges)
            total = sum(
                count * table.latency_ms(spec) for spec, count in space.fixed_operators().items()
            )
            for row, column in torch.nonzero(runs).tolist():
                assert runs[row, column] == 1
                for spec, count in space.operators(row, column).items():
                    total += count * table.latency_ms(spec)
            for work in space.shared_work():
                again = max(sum(float(runs[option]) for option in work.options) - 1, 0)
                for spec, count in work.operators.items():
                    total -= again * count * table.latency_ms(spec)
            assert cost.latency_ms(architecture) == pytest.approx(total, rel=1e-12)
            shares = cost.operator_latencies_ms(architecture)
            assert sum(shares.values()) == pytest.approx(total, rel=1e-12)

    def test_gradient_is_that_of_float64_differences(self, space, cost) -> None:
        torch.manual_seed(1)
        weights = torch.softmax(torch.randn(space.mask.shape, dtype=torch.float64), dim=1)
        weights = (weights * space.mask).requires_grad_()
        assert torch.autograd.gradcheck(lambda w: cost(Mixture(w)), weights, eps=1e-6)

    def test_missing_operators_are_refused_with_the_command_that_measures_them(self, space) -> None:
        table = table_of(space)
        rest = {row.spec: row.measurement for row in table.operators[1:]}
        smaller = type(table).from_measurements(
            rest,
            device=table.device,
            protocol=table.protocol,
            statistic=table.statistic,
            definitions=table.definitions,
        )
        with pytest.raises(InputError, match="measure it --now"):
            CostModel(space, smaller, command="measure it --now")


class TestDecoder:
    def test_decoded_architectures_keep_the_budget(self, space, cost, rng) -> None:
        fastest, slowest = latency_range_ms(cost)
        for share in (0.0, 0.3, 0.9):
            decoder = Decoder([Limit(cost, fastest + share * (slowest - fastest))])
            found = decoder.best(rng.normal(size=space.mask.shape), k=3)
            assert found
            assert all(decoder.is_feasible(a) for a in found)
            assert len(set(found)) == len(found)

    def test_impossible_budget_names_the_reachable_range(self, space, cost) -> None:
        fastest, slowest = latency_range_ms(cost)
        with pytest.raises(InputError, match=f"{fastest:.4g}.*{slowest:.4g}"):
            Decoder([Limit(cost, 0.9 * fastest)]).best(np.zeros(space.mask.shape))


SMALL = {"darts": {"nodes": 2}}
LONG = {"decoder", "elastic", "macro", "nasbench101", "nasnet", "rnn", "vit"}
"""Spaces that meet every strategy among the slow tests alone, since others have such choices."""


class TestStrategy:
    @pytest.fixture(
        params=[
            pytest.param(kind, marks=pytest.mark.slow if kind in LONG else ()) for kind in KINDS
        ]
    )
    def space(self, request):
        """Smaller cells than elsewhere, since there are many pairs of space and strategy."""
        return tiny_space(request.param, **SMALL.get(request.param, {}))

    def test_mixtures_have_the_space_s_shape(self, space, make_strategy) -> None:
        mixture = make_strategy().ask()
        assert mixture.weights.shape == space.mask.shape
        assert (mixture.weights[~space.mask] == 0).all()

    def test_same_seed_same_search(self, space, cost, make_strategy) -> None:
        found = []
        for _ in range(2):
            torch.manual_seed(0)
            strategy = make_strategy(seed=7)
            advance(strategy, space.supernet(), cost, steps=3)
            found.append(strategy.best(Decoder([Limit(cost)]), 2))
        assert found[0] == found[1]

    def test_best_keeps_the_budget(self, space, cost, make_strategy) -> None:
        fastest, slowest = latency_range_ms(cost)
        decoder = Decoder([Limit(cost, fastest + 0.05 * (slowest - fastest))])
        strategy = make_strategy()
        advance(strategy, space.supernet(), cost, steps=2)
        found = strategy.best(decoder, 3)
        assert 1 <= len(found) <= 3
        assert all(decoder.is_feasible(architecture) for architecture in found)

    def test_resumed_search_is_the_uninterrupted_one(
        self, space, cost, make_strategy, tmp_path
    ) -> None:
        torch.manual_seed(0)
        supernet = space.supernet()
        reference = make_strategy()
        advance(reference, copy.deepcopy(supernet), cost, steps=4)
        first = make_strategy()
        shared = copy.deepcopy(supernet)
        advance(first, shared, cost, steps=2)
        save_checkpoint(tmp_path, "search", 2, {"strategy": first.state_dict()})
        resumed = make_strategy()
        loaded = load_checkpoint(tmp_path, "search")
        assert loaded is not None
        resumed.load_state_dict(loaded[1]["strategy"])
        advance(resumed, shared, cost, steps=2, first=2)
        rows = probability_rows(resumed)
        assert rows is not None
        assert rows == probability_rows(reference)
        assert [len(row) for row in rows] == [len(choice.options) for choice in space.choices]
        np.testing.assert_allclose([sum(row) for row in rows], 1, atol=1e-3)
        assert torch.equal(resumed.ask().weights, reference.ask().weights)
        assert resumed.best(Decoder([Limit(cost)]), 2) == reference.best(Decoder([Limit(cost)]), 2)
