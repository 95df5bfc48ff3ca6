"""Alternatives of an architecture, against the cost model's own predictions and enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.explaining.alternatives import (
    alternatives,
    differing,
    paired_difference,
    random_architectures,
    with_option,
)


def cost_of(name: str) -> CostModel:
    space = tiny_space(name)
    return CostModel(space, table_of(space))


@pytest.mark.parametrize("name", ["mbconv", "nasbench201"])
def test_latency_and_size_differ_as_the_two_networks_do(name: str) -> None:
    cost = cost_of(name)
    architecture = cost.space.sample(np.random.default_rng(3))
    found = alternatives(cost, architecture)
    assert found
    base_ms = cost.latency_ms(architecture)
    params = cost.space.params_and_macs(architecture)[0]
    for one in found:
        cost.space.validate(one.architecture)
        assert one.architecture[one.choice] == one.option != architecture[one.choice]
        assert cost.latency_ms(one.architecture) - base_ms == pytest.approx(
            one.difference_ms, abs=1e-9
        )
        assert cost.space.params_and_macs(one.architecture)[0] - params == one.params
        changed = differing(architecture, one.architecture)
        assert sorted(changed) == sorted([one.choice, *one.followers])


def test_independent_choices_change_alone_and_every_option_is_there() -> None:
    cost = cost_of("nasbench201")
    architecture = cost.space.sample(np.random.default_rng(0))
    found = alternatives(cost, architecture)
    assert len(found) == 6 * 4
    assert not any(one.followers for one in found)


def test_where_options_exclude_each_other_the_nearest_architecture_is_taken() -> None:
    # A node of a DARTS cell has two inputs, so a third one takes the place of another.
    cost = cost_of("darts")
    architecture = cost.space.sample(np.random.default_rng(1))
    chosen = cost.space.chosen(architecture)
    row = next(row for row in range(2, 14) if chosen[row] == 0)
    nearest = with_option(cost, architecture, row, 4)
    assert nearest is not None
    choice = cost.space.choices[row]
    assert nearest[choice.name] == choice.options[4]
    (other,) = set(differing(architecture, nearest)) - {choice.name}
    assert nearest[other] == "none" != architecture[other]


def test_the_deviation_is_that_of_the_difference_and_not_of_the_networks() -> None:
    cost = cost_of("nasbench201")
    space = cost.space
    architecture = space.architecture([3] * 6)
    one = next(a for a in alternatives(cost, architecture) if a.option == "nor_conv_1x1")
    drawn = np.random.default_rng(0).multivariate_normal(
        cost.coefficients.mean, cost.coefficients.covariance, size=20_000
    )
    row = 1 + space.max_parts * [c.name for c in space.choices].index(one.choice)
    differences = drawn[:, row + 2] - drawn[:, row + 3]
    assert one.deviation_ms == pytest.approx(differences.std(), rel=0.03)
    assert one.deviation_ms < 0.5 * cost.predict([architecture])[1][0]


def test_scores_of_the_same_samples_are_compared_in_pairs() -> None:
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(2, 4000)) * np.array([[0.5], [0.01]])
    difference, error = paired_difference(shared + own + 0.02, shared)
    assert difference == pytest.approx(0.02, abs=3 * 0.01 / 4000**0.5)
    assert error == pytest.approx(0.01 / 4000**0.5, rel=0.05)
    assert paired_difference(np.array([0.4]), np.array([0.1])) == (pytest.approx(0.3), None)


def test_random_architectures_are_distinct_and_no_more_than_there_are() -> None:
    space = tiny_space("nasbench201")
    drawn = random_architectures(space, 50, np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn) == 50
    few = tiny_space(
        "macro", stages=[{"layers": [1, 2], "kernel": [1, 3], "width": 4, "stride": 2}]
    )
    assert len(random_architectures(few, 30, np.random.default_rng(0))) == few.size()
