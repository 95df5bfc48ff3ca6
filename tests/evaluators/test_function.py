"""Evaluation by a function of one's own."""

from __future__ import annotations

import pytest
from helpers.own_networks import own_space
from torch import nn

from hwnas.evaluators.function import EvaluationError, OwnFunction, evaluated


def test_scores_are_kept_and_a_failure_scores_as_the_worst_so_far(rng) -> None:
    space, calls, failures = own_space(), [], []

    def function(module: nn.Module) -> float:
        calls.append(module)
        if len(calls) == 3:
            raise RuntimeError("no\nluck")
        return 10.0 * len(calls)

    evaluate = OwnFunction(
        space, space.module, function, lambda architecture, reason: failures.append(reason)
    )
    drawn = list(dict.fromkeys(space.sample(rng) for _ in range(20)))[:4]
    assert [evaluate(a) for a in drawn] == [10.0, 20.0, 10.0, 40.0]
    assert evaluate.rank(drawn) == [10.0, 20.0, 10.0, 40.0]
    assert len(calls) == 4
    assert failures == ["evaluate: the function raised, got RuntimeError: no"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None, "high"])
def test_what_is_no_finite_number_is_a_failure(value) -> None:
    with pytest.raises(EvaluationError, match="evaluate: "):
        evaluated(lambda module: value, nn.Identity())
