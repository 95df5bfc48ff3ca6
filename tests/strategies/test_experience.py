"""What earlier searches tell: which of them predict, and where a search begins."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import decoder_of, tiny_space
from scipy.stats import spearmanr

from hwnas.strategies import build_strategy
from hwnas.strategies.base import Outcome
from hwnas.strategies.experience import Experience, earlier_search
from hwnas.strategies.gaussian_process import GaussianProcess

SPACE = tiny_space("nasbench201")


def accuracy(architecture) -> float:
    """Made-up accuracies: 1x1 convolutions are good, pools are bad."""
    options = [option for _, option in architecture]
    return 0.5 + 0.06 * options.count("nor_conv_1x1") - 0.05 * options.count("avg_pool_3x3")


def scored(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    drawn = [SPACE.sample(rng) for _ in range(count)]
    return [(architecture, accuracy(architecture)) for architecture in drawn]


@pytest.fixture(scope="module")
def experience() -> Experience:
    return Experience(SPACE, [earlier_search(scored(60), 0.8)])


@pytest.fixture(scope="module")
def shuffled() -> Experience:
    architectures, scores = zip(*scored(60), strict=True)
    mixed = np.random.default_rng(1).permutation(scores).tolist()
    pairs = list(zip(architectures, mixed, strict=True))
    return Experience(SPACE, [earlier_search(pairs, 1.0)])


def test_left_out_means_are_those_of_processes_without_the_observation(rng) -> None:
    features, targets = [rng.normal(size=(12, 3)), rng.normal(size=(12, 2))], rng.normal(size=12)
    whole = GaussianProcess(groups=2, linear=1)
    whole.fit(features, targets, search_scales=False)
    for left_out in range(12):
        kept = np.arange(12) != left_out
        part = GaussianProcess(groups=2, linear=1)
        part.fit([f[kept] for f in features], targets[kept], search_scales=False)
        # Standardised as all observations are.
        part.centre, part.spread = whole.centre, whole.spread
        values = (targets[kept] - whole.centre) / whole.spread
        part.weights = np.linalg.solve(part.root @ part.root.T, values)
        mean, _ = part.predict([f[[left_out]] for f in features])
        assert whole.left_out_means()[left_out] == pytest.approx(mean[0], rel=1e-6)


def test_scores_of_other_architectures_are_predicted(experience) -> None:
    architectures, scores = zip(*scored(100, seed=2), strict=True)
    mean, deviation = experience.predict(architectures)
    assert spearmanr(mean, scores).statistic > 0.7
    assert (deviation > 0).all()
    assert 0.5 < experience.trust <= 0.8


def test_the_best_predictions_keep_the_budget_and_are_different_networks(experience) -> None:
    decoder = decoder_of(SPACE)
    found = experience.best(decoder, 10, np.random.default_rng(0))
    assert len({SPACE.identity(architecture) for architecture in found}) == 10
    best = max(accuracy(SPACE.sample(np.random.default_rng(n))) for n in range(200))
    assert accuracy(found[0]) >= best


def test_shuffled_scores_have_no_weight(shuffled) -> None:
    assert not shuffled
    assert shuffled.trust == 0


def test_few_or_equal_scores_are_no_source() -> None:
    equal = [(architecture, 0.5) for architecture, _ in scored(30)]
    assert not Experience(SPACE, [earlier_search(pairs, 1.0) for pairs in (scored(5), equal)])


def test_short_trainings_count_for_less_than_size(rng) -> None:
    """After a longer training, the larger of two networks with the same score is better."""
    pairs = [(architecture, 0.5 + 1e-3 * rng.normal()) for architecture, _ in scored(60)]
    sized = Experience(SPACE, [earlier_search(pairs, 1.0, short=True)])
    large = SPACE.architecture([3] * 6)
    small = SPACE.architecture([1] * 6)
    mean, _ = sized.predict([small, large])
    assert mean[1] > mean[0]


@pytest.mark.parametrize("name", ["evolution", "bayesian", "random"])
def test_a_search_begins_with_the_best_predictions(name: str, experience) -> None:
    decoder = decoder_of(SPACE)
    strategy = build_strategy(name, SPACE, 0, {}, decoder)
    strategy.begin_from(experience)
    first = SPACE.most_likely(strategy.ask())
    assert first == strategy.suggested[0]
    assert accuracy(first) >= 0.5 + 5 * 0.06
    assert len(strategy.suggested) == (5 if name == "bayesian" else 10)
    assert strategy.starts == (10 if name == "evolution" else 0)


def test_a_gradient_strategy_begins_with_options_that_were_good(experience) -> None:
    without, strategy = (build_strategy("darts", SPACE, 0, {}, decoder_of(SPACE)) for _ in range(2))
    strategy.begin_from(experience)
    gained = (strategy.probabilities() - without.probabilities()).mean(dim=0)
    assert gained.argmax() == 2
    assert gained.argmin() == 4


def test_a_start_has_cautious_and_optimistic_predictions(experience) -> None:
    decoder = decoder_of(SPACE)
    found = experience.start(decoder, 10, np.random.default_rng(3))
    assert len({SPACE.identity(architecture) for architecture in found}) == 10
    _, deviation = experience.predict(found)
    assert deviation[::2].mean() < deviation[1::2].mean()


def test_a_model_proposes_after_what_was_predicted(experience) -> None:
    """Without earlier searches it would propose after 20 evaluations."""
    strategy = build_strategy("bayesian", SPACE, 0, {}, decoder_of(SPACE))
    strategy.begin_from(experience)
    for step in range(6):
        assert (strategy.size_weight() is None) == (step < 5)
        mixture = strategy.ask()
        error = 1 - accuracy(SPACE.most_likely(mixture))
        strategy.tell(mixture, Outcome(error, error, 0.5, lasting=True), 0.0)


def test_optimism_prefers_uncertain_predictions(experience) -> None:
    decoder = decoder_of(SPACE)
    deviations = []
    for optimism in (0.0, 5.0):
        found = experience.best(decoder, 10, np.random.default_rng(3), optimism=optimism)
        mean, deviation = experience.predict(found)
        values = mean + optimism * deviation
        assert (np.diff(values) <= 1e-9).all()
        deviations.append(deviation.mean())
    assert deviations[1] > deviations[0]
