"""The best architectures under a latency budget, exactly: an integer programme.

Maximise the sum of the options' scores subject to the structure of the space and to predicted
latency <= budget. With log-probabilities as scores this is the most probable architecture of the
distribution that the cost model takes its expectation over. The k best follow by excluding each
solution found (no-good cuts). Solved by HiGHS through `scipy.optimize.milp`.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.errors import HwnasError, InputError
from hwnas.spaces.base import SearchSpace

FEASIBILITY_TOLERANCE = 1e-6


class Decoder:
    """Finds architectures of a space whose predicted latency keeps a budget.

    Args:
        cost: the cost model, with its space.
        budget_ms: the latency that no decoded architecture exceeds by the model's prediction.
    """

    def __init__(self, cost: CostModel, budget_ms: float = np.inf) -> None:
        self.cost = cost
        self.space = cost.space
        self.budget_ms = budget_ms

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether the predicted latency is within the budget."""
        return self.cost.latency_ms(architecture) <= self.budget_ms * (1 + FEASIBILITY_TOLERANCE)

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """The k architectures of highest total score within the budget, best first.

        Args:
            scores: (choices, max_options); finite where the space has an option.
            k: how many; fewer come back when fewer keep the budget.

        Raises:
            InputError: when none keeps the budget; names the reachable range.
        """
        found = list(solutions(self.space, scores, k, self.cost, self.budget_ms))
        if not found:
            fastest, slowest = latency_range_ms(self.cost)
            raise InputError(
                "no architecture keeps the budget",
                where="budget_ms",
                expected=f"at least {fastest:.4g} ms (the slowest network takes {slowest:.4g} ms)",
                actual=f"{self.budget_ms:.4g} ms",
                mend="raise the budget or make the space smaller",
            )
        return found


def latency_range_ms(cost: CostModel) -> tuple[float, float]:
    """Predicted latency of the fastest and of the slowest network of the space."""
    fastest = next(iter(solutions(cost.space, -cost.cost_ms, 1, cost, np.inf)))
    slowest = next(iter(solutions(cost.space, cost.cost_ms, 1, cost, np.inf)))
    return cost.latency_ms(fastest), cost.latency_ms(slowest)


def solutions(
    space: SearchSpace, scores: np.ndarray, k: int, cost: CostModel, budget_ms: float
) -> list[Architecture]:
    """Solve k times, each time without the solutions found before."""
    program = space.decoding_program()
    mask = space.mask.numpy()
    choices, options = mask.shape
    taken = choices * options
    variables = taken + program.auxiliary
    objective = np.zeros(variables)
    objective[:taken] = -np.where(mask, scores, 0.0).ravel()
    upper_bounds = np.ones(variables)
    upper_bounds[:taken] = mask.ravel()
    constraints = [LinearConstraint(program.matrix, program.lower, program.upper)]
    if np.isfinite(budget_ms):
        latency = np.zeros(variables)
        runs = program.runs >= 0
        np.add.at(latency, program.runs[runs], cost.cost_ms[runs])
        room_ms = budget_ms / cost.scale - cost.fixed_ms
        constraints.append(LinearConstraint(latency[None], -np.inf, room_ms))
    found: list[Architecture] = []
    for _ in range(k):
        result = milp(
            objective,
            integrality=np.ones(variables),
            bounds=Bounds(0, upper_bounds),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:
            break
        if result.x is None:
            raise HwnasError("the integer programme was not solved", actual=result.message)
        x = np.round(result.x[:taken]).reshape(choices, options)
        found.append(space.architecture([int(i) for i in x.argmax(axis=1)]))
        cut = np.zeros(variables)
        cut[:taken] = x.ravel()
        constraints.append(LinearConstraint(cut[None], -np.inf, choices - 1))
    return found
