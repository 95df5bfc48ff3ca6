"""What is generated for data, a device and a budget that a base knows."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.knowledge.embedding import LENGTH
from hwnas.knowledge.generator import ArchitectureGenerator, DeviceCosts
from hwnas.knowledge.records import RememberedSearch, choices_of, scored_of

SPACE = tiny_space("nasbench201")
GOOD_FOR = {0.0: "nor_conv_1x1", 1.0: "avg_pool_3x3"}
"""The operator that is good for data with this embedding."""
FAST = {"one": "skip_connect", "other": "nor_conv_1x1"}
"""The operator that costs nothing on a device."""


def coefficients_ms(device: str) -> tuple[float, ...]:
    free = [option == FAST[device] for option in SPACE.coefficient_options[1:]]
    return (0.1, *(0.0 if one else 1.0 for one in free))


def score(architecture, data: float) -> float:
    return 0.1 * [option for _, option in architecture].count(GOOD_FOR[data])


def search(data: float, device: str, seed: int) -> RememberedSearch:
    rng = np.random.default_rng(seed)
    drawn = [SPACE.sample(rng) for _ in range(80)]
    return RememberedSearch(
        created="2026-11-30",
        space=SPACE.name,
        choices=choices_of(SPACE),
        task="image-classification",
        embedding=(data,) * LENGTH,
        device=device,
        runtime="external",
        coefficients_ms=coefficients_ms(device),
        budget_ms=1.0,
        evaluator="training",
        evaluations=tuple(scored_of([(a, score(a, data)) for a in drawn])),
    )


@pytest.fixture(scope="module")
def generator() -> ArchitectureGenerator:
    searches = [search(0.0, "one", 0), search(1.0, "other", 1)]
    return ArchitectureGenerator(SPACE, searches, seed=0)


def generated(generator, data: float, device: str, budget_ms: float):
    costs = DeviceCosts(SPACE, coefficients_ms(device), "external")
    found = generator.sample(costs, (data,) * LENGTH, budget_ms, 100)
    return costs, found


def test_what_is_generated_suits_the_data(generator) -> None:
    means = np.array(
        [
            [np.mean([score(a, judged) for a in generated(generator, data, "one", 1e3)[1]])
             for judged in GOOD_FOR]
            for data in GOOD_FOR
        ]
    )  # fmt: skip
    random = np.mean([score(SPACE.sample(np.random.default_rng(n)), 0.0) for n in range(100)])
    assert (means.diagonal() > random + 0.1).all()
    assert (means[[0, 1], [1, 0]] < random).all()


def test_what_is_generated_suits_device_and_budget(generator) -> None:
    scores = []
    for device in FAST:
        costs, tight = generated(generator, 0.0, device, 2.1)
        random = costs.latencies_ms([SPACE.sample(np.random.default_rng(n)) for n in range(100)])
        assert costs.latencies_ms(tight).mean() < random.mean() - 0.5
        scores.append(np.mean([score(a, 0.0) for a in tight]))
    # What is good for these data costs nothing on the second device.
    assert scores[1] > scores[0] + 0.1


def test_latencies_are_those_of_the_latency_model(rng) -> None:
    cost = CostModel(SPACE, table_of(SPACE))
    drawn = [SPACE.sample(rng) for _ in range(20)]
    costs = DeviceCosts(SPACE, cost.coefficients.mean.tolist(), "onnxruntime-cpu")
    np.testing.assert_allclose(costs.latencies_ms(drawn), cost.predict(drawn)[0], rtol=1e-5)


def test_the_same_seed_generates_the_same(generator) -> None:
    searches = [search(0.0, "one", 0), search(1.0, "other", 1)]
    again = ArchitectureGenerator(SPACE, searches, seed=0)
    assert generated(again, 0.0, "one", 2.0)[1] == generated(generator, 0.0, "one", 2.0)[1]


def test_a_base_without_enough_scores_generates_nothing() -> None:
    few = search(0.0, "one", 0)
    few = few.model_copy(update={"evaluations": few.evaluations[:3]})
    empty = ArchitectureGenerator(SPACE, [few], seed=0)
    assert empty.examples == 0
    assert generated(empty, 0.0, "one", 2.0)[1] == []
