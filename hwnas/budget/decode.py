"""The best architectures under latency budgets, exactly: an integer programme.

Maximise the sum of the options' scores subject to the structure of the space and, for each limit,
to predicted latency <= budget. With log-probabilities as scores this is the most probable
architecture of the distribution that the cost model takes its expectation over. A limit with a
confidence adds its margin by tangents (outer approximation: Duran & Grossmann, "An outer-
approximation algorithm for a class of mixed-integer nonlinear programs", Mathematical Programming
36, 1986). The k best follow by excluding each solution found (no-good cuts). Solved by HiGHS
through `scipy.optimize.milp`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.limit import Limit
from hwnas.errors import HwnasError, InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.decoding import DecodingProgram

FIRST_TANGENTS = 32
"""Random architectures whose tangents bound the margin from the start."""
MAX_TANGENTS = 200
"""Solutions over a budget with a confidence that are excluded before a decoding gives up."""


class Decoder:
    """Finds architectures of a space whose predicted latencies keep all budgets.

    Args:
        limits: at least one, all of the same space.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)
        self.space = limits[0].cost.space

    def is_feasible(self, architecture: Architecture) -> bool:
        """Whether the predicted latencies are within all budgets."""
        return all(limit.is_kept(architecture) for limit in self.limits)

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """The k architectures of highest total score within the budgets, best first.

        Args:
            scores: (choices, max_options); finite where the space has an option.
            k: how many; fewer come back when fewer keep the budgets.

        Raises:
            InputError: when none keeps the budgets; names the reachable range.
        """
        found = _Programme(self.space, scores, self.limits).solve(k)
        if not found:
            reachable = []
            for limit in self.limits:
                fastest_ms, slowest_ms = latency_range_ms(limit.cost)
                reachable.append(f"{fastest_ms:.4g} to {slowest_ms:.4g} ms")
            raise InputError(
                "no architecture keeps the budget",
                where="budget_ms",
                expected=f"within the reach of the device ({'; '.join(reachable)})",
                actual="; ".join(f"{limit.budget_ms:.4g} ms" for limit in self.limits),
                mend="raise the budget or make the space smaller",
            )
        return found


def latency_range_ms(cost: CostModel) -> tuple[float, float]:
    """Predicted latency of the fastest network, and of the one whose operators cost most.

    The latter is the slowest, unless a runtime saves repeated operators in it.
    """
    fastest = _Programme(cost.space, np.zeros(cost.space.mask.shape), [Limit(cost)])
    fastest.objective = fastest.latency_row(cost.edges, cost.coefficients.mean)
    slowest = _highest(cost.space, cost.coefficients.mean)
    return cost.latency_ms(fastest.solve(1)[0]), cost.latency_ms(slowest)


def params_and_macs_ranges(space: SearchSpace) -> tuple[tuple[int, int], tuple[int, int]]:
    """Least and most parameters of the space's networks, and of their multiply-accumulates."""
    counts = space.coefficient_params_and_macs
    least = [space.params_and_macs(_highest(space, -counts[:, i]))[i] for i in range(2)]
    most = [space.params_and_macs(_highest(space, counts[:, i]))[i] for i in range(2)]
    return (least[0], most[0]), (least[1], most[1])


def smallest_and_largest(space: SearchSpace) -> tuple[Architecture, Architecture]:
    """The architectures of least and of most multiply-accumulates."""
    macs = space.coefficient_params_and_macs[:, 1]
    return _highest(space, -macs), _highest(space, macs)


def _highest(space: SearchSpace, coefficients: np.ndarray) -> Architecture:
    """The architecture whose chosen parts add up to the most, by (1 + choices * max_parts,)."""
    programme = _Programme(space, np.zeros(space.mask.shape), [])
    programme.objective = -programme.latency_row("all", coefficients)
    return programme.solve(1)[0]


class _Programme:
    """The integer programme of one decoding; constraints are added while it is solved."""

    def __init__(self, space: SearchSpace, scores: np.ndarray, limits: Sequence[Limit]) -> None:
        self.space = space
        self.limits = [limit for limit in limits if np.isfinite(limit.budget_ms)]
        # Every rule's program has the architectures; without limits any will do.
        rules: list[EdgeRule] = [limit.cost.edges for limit in limits] or ["all"]
        self.programs: dict[EdgeRule, DecodingProgram] = {
            edges: space.decoding_program(edges) for edges in rules
        }
        mask = space.mask.numpy()
        self.taken = mask.size
        # Each rule has auxiliary variables of its own behind the options.
        self.offsets: dict[EdgeRule, int] = {}
        size = self.taken
        for edges, program in self.programs.items():
            self.offsets[edges] = size
            size += program.auxiliary
        self.size = size
        self.objective = np.zeros(size)
        self.objective[: self.taken] = -np.where(mask, scores, 0.0).ravel()
        self.upper_bounds = np.ones(size)
        self.upper_bounds[: self.taken] = mask.ravel()
        self.constraints = [self._structure(*item) for item in self.programs.items()]
        for limit in self.limits:
            self._add_latency(limit, limit.cost.coefficients.mean, 0.0)
            if limit.deviations:
                rng = np.random.default_rng(0)
                for _ in range(FIRST_TANGENTS):
                    self._add_tangent(limit, space.sample(rng))

    def solve(self, k: int) -> list[Architecture]:
        """The k best, each excluded before the next is found."""
        found: list[Architecture] = []
        refused = 0
        while len(found) < k and refused <= MAX_TANGENTS:
            x = self._optimum()
            if x is None:
                break
            architecture = self.space.architecture(self._chosen(x))
            over = [limit for limit in self.limits if not limit.is_kept(architecture)]
            for limit in over:
                self._add_tangent(limit, architecture)
            if over:
                refused += 1
            else:
                found.append(architecture)
            self._exclude(x)
        return found

    def _optimum(self) -> np.ndarray | None:
        """The best values of the variables, rounded; None when nothing satisfies all."""
        result = milp(
            self.objective,
            integrality=np.arange(self.size) < self.taken,
            bounds=Bounds(0, self.upper_bounds),
            constraints=self.constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:
            return None
        if result.x is None:
            raise HwnasError("the integer programme was not solved", actual=result.message)
        return np.round(result.x)

    def _column(self, edges: EdgeRule, variable: int) -> int:
        """Where a variable of one rule's program stands here."""
        return variable if variable < self.taken else self.offsets[edges] + variable - self.taken

    def _structure(self, edges: EdgeRule, program: DecodingProgram) -> LinearConstraint:
        matrix = np.zeros((len(program.matrix), self.size))
        columns = [self._column(edges, v) for v in range(program.matrix.shape[1])]
        matrix[:, columns] = program.matrix
        return LinearConstraint(matrix, program.lower, program.upper)

    def _add_tangent(self, limit: Limit, architecture: Architecture) -> None:
        """The limit's margin, linear about an architecture."""
        gradient, constant_ms = limit.margin(architecture)
        self._add_latency(limit, limit.cost.coefficients.mean + gradient, constant_ms)

    def _add_latency(self, limit: Limit, coefficients: np.ndarray, constant_ms: float) -> None:
        """Coefficients @ features + constant <= budget."""
        row = self.latency_row(limit.cost.edges, coefficients)
        room_ms = limit.budget_ms - coefficients[0] - constant_ms
        self.constraints.append(LinearConstraint(row[None], -np.inf, room_ms))

    def latency_row(self, edges: EdgeRule, coefficients: np.ndarray) -> np.ndarray:
        """(variables,) with `row @ variables` what runs under a rule, priced."""
        row = np.zeros(self.size)
        program = self.programs[edges]
        costs_ms, shared_ms = np.split(coefficients[1:], [program.runs.size])
        for variable, cost_ms in zip(program.runs.flat, costs_ms, strict=True):
            if variable >= 0:
                row[self._column(edges, int(variable))] += cost_ms
        for (work, members), work_ms in zip(program.shared, shared_ms, strict=False):
            row[self._column(edges, work)] += work_ms
            for member in members:
                row[self._column(edges, member)] -= work_ms
        return row

    def _chosen(self, x: np.ndarray) -> list[int]:
        """The option that each choice takes."""
        taken = x[: self.taken].reshape(self.space.mask.shape)
        return [int(option) for option in taken.argmax(axis=1)]

    def _exclude(self, x: np.ndarray) -> None:
        """Exclude an architecture, whatever its idle choices take."""
        chosen = self._chosen(x)
        idle = self.space.idle(chosen)
        deciding = [row for row in range(len(chosen)) if row not in idle]
        cut = np.zeros(self.size)
        cut[[row * self.space.max_options + chosen[row] for row in deciding]] = 1
        self.constraints.append(LinearConstraint(cut[None], -np.inf, len(deciding) - 1))
