"""Settings of training that are searched: ranges, priors, learning from scores, and resuming."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from hwnas.config import RangeConfig, SearchConfig, TrainConfig, load_config
from hwnas.errors import InputError
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


def test_a_search_goes_on_where_it_stopped() -> None:
    whole = searched(Recipes(RANGES, 3), 16)
    half = searched(Recipes(RANGES, 3), 9)
    resumed = Recipes(RANGES, 3)
    resumed.load(half.state())
    assert searched(resumed, 7).trials == whole.trials


def test_short_evaluations_count_behind_full_ones() -> None:
    recipes = Recipes(RANGES, 0)
    recipe = recipes.ask()
    recipes.tell(recipe, 0.9, 1 / 3)
    assert recipes.best == recipe
    full = recipes.ask()
    recipes.tell(full, 0.2, 1.0)
    assert recipes.best == full


def test_priors_come_first_and_fade(rng) -> None:
    prior = {
        "learning_rate": RangeConfig(low=1e-4, high=1, log=True, prior=0.01, confidence="high"),
        "batch_size": RangeConfig(options=[8, 16, 32], prior=32),
    }
    found = searched(Recipes(prior, 0, "random"), 200)
    assert found.trials[0][0] == {"learning_rate": pytest.approx(0.01), "batch_size": 32}
    # Within two deviations of an eighth of four decades: nearly all drawn by the prior, and half
    # of those that are uniform.
    is_near = [abs(math.log10(r["learning_rate"]) + 2) < 1 for r, _, _ in found.trials]
    assert np.mean(is_near[:16]) > 0.6
    assert 0.35 < np.mean(is_near[100:]) < 0.7


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


def test_every_training_has_a_recipe_and_a_longer_one_keeps_it() -> None:
    """With hyperband, the same architecture is trained for a third of the epochs, then for all."""
    seen = []

    class Watched(ShortTraining):
        def _trained(self, architecture, config, batches) -> float:
            seen.append((config.learning_rate, config.epochs, batches))
            return config.learning_rate

    recipes = Recipes({"learning_rate": RangeConfig(low=0.01, high=0.1)}, 0)
    train = TrainConfig(epochs=9)
    evaluator = Watched(
        None, train, None, None, None, 0, None, recipes=recipes,
        batches_of=lambda config: f"batches of {config.batch_size}",
    )  # fmt: skip
    short, full = evaluator("a", 1 / 3), evaluator("a", 1.0)
    evaluator("a", 1.0)
    assert [epochs for _, epochs, _ in seen] == [3, 9, 9]
    assert short == full
    assert seen[2][0] != seen[1][0]  # a new recipe once the training has ended
    assert evaluator.known["a"] == max(seen[1][0], seen[2][0])
    assert evaluator.rank(["a", "b"]) == [evaluator.known["a"], recipes.best["learning_rate"]]
    assert with_recipe(train, {"batch_size": 8.0}).batch_size == 8
