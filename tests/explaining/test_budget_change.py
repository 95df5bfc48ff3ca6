"""The first change as a budget grows, and what a budget is worth."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit
from hwnas.explaining.budget_change import first_change


def named(option: str) -> Architecture:
    return Architecture.of("space", {"choice": option})


def test_the_budget_of_the_change_is_found_by_bisection() -> None:
    change = first_change(lambda factor: named("large" if factor >= 1.037 else "small"))
    assert change is not None
    assert 1.037 <= change.factor <= 1.037 + 0.1 / 2**5
    assert (change.before, change.after) == (named("small"), named("large"))


def test_of_several_changes_the_first_is_found() -> None:
    options = [(1.08, "third"), (1.02, "second"), (0.0, "first")]
    change = first_change(
        lambda factor: named(next(name for least, name in options if factor >= least))
    )
    assert change is not None
    assert change.after == named("second")
    assert first_change(lambda factor: named("always")) is None


def test_the_price_of_a_budget_is_the_slope_of_the_relaxed_optimum() -> None:
    space = tiny_space("nasbench201")
    cost = CostModel(space, table_of(space))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    scores = np.random.default_rng(0).normal(size=space.mask.shape)

    def decoder(share: float) -> Decoder:
        budget_ms = fastest_ms + share * (slowest_ms - fastest_ms)
        return Decoder([Limit(cost, budget_ms), Limit(cost, 10 * slowest_ms)])

    prices = [decoder(share).shadow_prices(scores) for share in np.linspace(0.05, 0.95, 19)]
    assert all(tight >= 0 and loose == 0 for tight, loose in prices)
    tight = [price for price, _ in prices]
    # The optimum of a linear program is concave in its right-hand sides.
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(tight))
    assert tight[0] > 0
    # Between two budgets the relaxed optimum grows by at least the exact one minus its gaps.
    step_ms = 0.9 * (slowest_ms - fastest_ms)
    totals = [
        sum(scores[row, option] for row, option in enumerate(space.chosen(best)))
        for best in (decoder(share).best(scores)[0] for share in (0.05, 0.95))
    ]
    bound = float(np.trapezoid(tight, dx=0.05 * (slowest_ms - fastest_ms)))
    assert totals[1] - totals[0] == pytest.approx(bound, abs=0.5 * bound + 0.3 * step_ms * tight[0])


def test_a_budget_with_a_confidence_has_a_price_too() -> None:
    space = tiny_space("darts")
    cost = CostModel(space, table_of(space))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    limit = Limit(cost, fastest_ms + 0.8 * (slowest_ms - fastest_ms))
    scores = np.random.default_rng(1).normal(size=space.mask.shape)
    (plain,) = Decoder([limit]).shadow_prices(scores)
    (careful,) = Decoder([replace(limit, confidence=0.6)]).shadow_prices(scores)
    assert 0 < plain < careful
