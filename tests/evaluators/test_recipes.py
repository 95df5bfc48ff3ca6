"""Settings of training that are searched: ranges, priors, learning from scores, and resuming."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from helpers.tiny import tiny_space
from pydantic import ValidationError

from hwnas.config import RangeConfig, SearchConfig, TrainConfig, load_config
from hwnas.errors import InputError
from hwnas.evaluators.recipe_ranges import density, drawn
from hwnas.evaluators.recipes import Recipes, with_recipe
from hwnas.evaluators.short_training import ShortTraining
from hwnas.pipeline.compatibility import check_recipe
from hwnas.pipeline.problem import read_dataset

RANGES = {
    "learning_rate": RangeConfig(low=1e-4, high=1.0, log=True),
    "batch_size": RangeConfig(options=[8, 16, 32]),
    "crop_padding": RangeConfig(low=0, high=4),
}


def score_of(recipe: dict[str, float]) -> float:
    """Best, 1, at a learning rate of 0.01 and batches of 16."""
    distance = abs(math.log10(recipe["learning_rate"]) + 2)
    return 1 - 0.2 * distance - 0.1 * (recipe["batch_size"] != 16)


def searched(recipes: Recipes, trials: int) -> Recipes:
    for _ in range(trials):
        recipe = recipes.ask()
        recipes.tell(recipe, score_of(recipe), 1.0)
    return recipes


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi-random"])
def test_proposals_are_within_their_ranges_and_depend_on_the_seed_alone(sampler: str) -> None:
    first, again, other = (searched(Recipes(RANGES, seed, sampler), 12) for seed in (0, 0, 1))
    assert first.trials == again.trials != other.trials
    for recipe, _, _ in first.trials:
        assert 1e-4 <= recipe["learning_rate"] <= 1
        assert recipe["batch_size"] in (8, 16, 32)
        assert recipe["crop_padding"] in range(5)
    assert len({recipe["learning_rate"] for recipe, _, _ in first.trials}) == 12


def test_the_sampler_learns_from_scores() -> None:
    found = searched(Recipes(RANGES, 0), 40)
    early = np.mean([score for _, score, _ in found.trials[:10]])
    late = np.mean([score for _, score, _ in found.trials[-10:]])
    assert late > early + 0.1
    assert abs(math.log10(found.best["learning_rate"]) + 2) < 0.5


def halved(recipes: Recipes, first: int, last: int) -> Recipes:
    """Successive halving of pairs: each second architecture is trained for longer."""
    for number in range(first, last):
        chosen, fidelity = (number // 3,), (1 / 3, 1 / 3, 1.0)[number % 3]
        recipe = recipes.longer(chosen, fidelity) or recipes.ask()
        recipes.tell(recipe, score_of(recipe), fidelity, chosen)
    return recipes


@pytest.mark.parametrize("sampler", ["tpe", "quasi-random"])
def test_a_search_goes_on_where_it_stopped(sampler: str) -> None:
    whole = halved(Recipes(RANGES, 3, sampler), 0, 20)
    half = halved(Recipes(RANGES, 3, sampler), 0, 11)
    resumed = Recipes(RANGES, 3, sampler)
    resumed.load(json.loads(json.dumps(half.state())))
    assert halved(resumed, 11, 20).trials == whole.trials
    assert resumed.begun == whole.begun


def test_short_evaluations_count_behind_full_ones() -> None:
    recipes = Recipes(RANGES, 0)
    recipe = recipes.ask()
    recipes.tell(recipe, 0.9, 1 / 3)
    assert recipes.best == recipe
    full = recipes.ask()
    recipes.tell(full, 0.2, 1.0)
    assert recipes.best == full


def with_prior(learning_rate: float, confidence: str) -> dict[str, RangeConfig]:
    return RANGES | {
        "learning_rate": RangeConfig(
            low=1e-4, high=1, log=True, prior=learning_rate, confidence=confidence
        ),
        "batch_size": RangeConfig(options=[8, 16, 32], prior=16),
    }


def test_priors_come_first() -> None:
    """Half of what is drawn around a prior is within 0.67 deviations of it."""
    recipes = Recipes(with_prior(0.1, "high"), 0)
    assert recipes.best == recipes.ask()
    assert recipes.ask() == {"learning_rate": 0.1, "batch_size": 16, "crop_padding": 2}
    rng = np.random.default_rng(0)
    found = [recipes._by_priors(rng) for _ in range(400)]
    is_near = [abs(math.log10(r["learning_rate"]) + 1) < 0.67 * 4 / 8 for r in found]
    assert np.mean(is_near) == pytest.approx(0.5, abs=0.08)
    kept = np.mean([r["batch_size"] == 16 for r in found])
    assert kept == pytest.approx(7 / 8 + 1 / 24, abs=0.05)


@pytest.mark.parametrize("prior, is_right", [(0.01, True), (1.0, False)])
def test_a_wrong_prior_is_left_and_a_right_one_stays(prior: float, is_right: bool) -> None:
    recipes = Recipes(with_prior(prior, "high"), 0, "random")
    assert recipes._share_of_priors(recipes._best_trials()) == 1
    searched(recipes, 30)
    share = recipes._share_of_priors(recipes._best_trials())
    assert share > 0.1 if is_right else share < 0.01
    assert abs(math.log10(recipes.best["learning_rate"]) + 2) < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_first_proposals_are_spread_over_the_whole_range(seed: int) -> None:
    """Of eight trials at a low fidelity, from which nothing is learned yet."""
    recipes = Recipes({"learning_rate": RangeConfig(low=1e-4, high=1, log=True)}, seed)
    for number in range(8):
        recipes.tell(recipes.ask(), 0.5, 1 / 3**number)
    places = sorted(math.log10(recipe["learning_rate"]) for recipe, _, _ in recipes.trials)
    assert all(after - before < 1.3 for before, after in itertools.pairwise([-4, *places, 0]))


@pytest.mark.parametrize(
    "one, centre",
    [
        (RangeConfig(low=1e-4, high=1, log=True), 0.01),
        (RangeConfig(low=-1, high=3), 1.5),
        (RangeConfig(options=[1, 2, 4, 8]), 4),
        (RangeConfig(low=0, high=2), None),
    ],
)
def test_densities_are_those_of_what_is_drawn(one: RangeConfig, centre: float | None, rng) -> None:
    """Against the shares of draws in tenths of a range, where 1 is drawing from the whole range."""
    values = [drawn(one, "noise", centre, 0.1, rng) for _ in range(4000)]
    if one.options is not None:
        for option in one.options:
            share = np.mean([value == option for value in values]) * len(one.options)
            assert density(one, option, centre, 0.1) == pytest.approx(share, abs=0.15)
        return
    low, high = (math.log(v) if one.log else v for v in (one.low, one.high))
    at = [((math.log(v) if one.log else v) - low) / (high - low) for v in values]
    shares, edges = np.histogram(at, bins=50, range=(0, 1))
    places = [low + (high - low) * (a + b) / 2 for a, b in itertools.pairwise(edges)]
    for share, place in zip(shares * 50 / len(values), places, strict=True):
        value = math.exp(place) if one.log else place
        assert density(one, value, centre, 0.1) == pytest.approx(share, abs=0.9)


@pytest.mark.parametrize(
    "given",
    [
        {"low": 1.0},
        {"low": 2.0, "high": 1.0},
        {"low": 0.0, "high": 1.0, "log": True},
        {"low": 0.0, "high": 1.0, "prior": 2.0},
        {"options": [1.0, 1.0]},
        {"options": [1.0, 2.0], "low": 0.0, "high": 1.0},
        {"options": [1.0, 2.0], "prior": 3.0},
        {"low": 0.0, "high": float("inf")},
    ],
)
def test_ranges_that_hold_nothing_are_refused(given: dict) -> None:
    with pytest.raises(ValidationError):
        RangeConfig(**given)


def test_recipes_are_for_trainings_of_known_settings() -> None:
    one = {"low": 0.1, "high": 0.2}
    with pytest.raises(ValidationError, match="recipe has optimizer"):
        SearchConfig(steps=1, evaluator="training", recipe={"optimizer": one})
    with pytest.raises(ValidationError, match="recipe needs evaluator = training"):
        SearchConfig(steps=1, recipe={"learning_rate": one})


BASE = ["search.strategy=random", "search.evaluator=training", "data.train_limit=60"]


@pytest.mark.parametrize(
    "setting, words",
    [
        ("learning_rate={low=0.1, high=0.2}", ""),
        ("momentum={low=0.1, high=1.5}", "search.recipe.momentum"),
        ("cutout={low=0, high=4}", "augmentation that does not suit tables"),
        ("batch_size={options=[16, 64]}", "at most 30, got 64"),
    ],
)
def test_recipes_with_which_nothing_can_be_trained_are_refused(setting: str, words: str) -> None:
    config = load_config("sequence_ratings", [*BASE, f"search.recipe.{setting}"])
    data = read_dataset(config.data, 0)
    if not words:
        return check_recipe(config, data, "here")
    with pytest.raises(InputError, match=words):
        check_recipe(config, data, "here")


def test_every_training_has_a_recipe_and_longer_ones_keep_it() -> None:
    """With hyperband, the same architecture is trained for a ninth, a third, and all epochs."""
    seen = []

    class Watched(ShortTraining):
        def _trained(self, architecture, config, batches) -> float:
            seen.append((config.learning_rate, config.epochs, batches))
            return config.learning_rate

    space = tiny_space("nasbench201")
    one, other = (space.architecture([option] * 6) for option in (1, 2))
    recipes = Recipes({"learning_rate": RangeConfig(low=0.01, high=0.1)}, 0)
    train = TrainConfig(epochs=9)
    evaluator = Watched(
        space, train, None, None, None, 0, None, recipes=recipes,
        batches_of=lambda config: f"batches of {config.batch_size}",
    )  # fmt: skip
    trained = [evaluator(one, fidelity) for fidelity in (1 / 9, 1 / 3, 1.0)]
    evaluator(one, 1.0)
    assert [epochs for _, epochs, _ in seen] == [1, 3, 9, 9]
    assert len(set(trained)) == 1
    assert seen[3][0] != seen[2][0]  # a new recipe once the training has ended
    assert evaluator.known[one] == max(seen[2][0], seen[3][0])
    assert evaluator.rank([one, other]) == [evaluator.known[one], recipes.best["learning_rate"]]
    assert with_recipe(train, {"batch_size": 8.0}).batch_size == 8
