"""The integer linear program whose optimum is the best architecture under latency budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from hwnas.architecture import Architecture
from hwnas.budget.limit import Limit
from hwnas.errors import HwnasError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.decoding import DecodingProgram

FIRST_TANGENTS = 32
"""Number of random architectures at which the margin is linearised from the start."""
MAX_TANGENTS = 200
"""Number of solutions over a budget that are excluded before decoding stops."""
TIE_NOISE = 0.01
"""Random share of the largest size by which ties between sizes are broken."""
QUICK = {"mip_rel_gap": TIE_NOISE, "node_limit": 1, "presolve": False}
"""Options of HiGHS where ties are broken at random: as near to the optimum as that noise. The limit
on nodes, unlike one on time, makes the same solver return the same architecture every time. With
its presolve, HiGHS prints a line to standard output whenever it repairs a solution."""


class IntegerProgram:
    """The integer linear program of one decoding; constraints are added while it is solved.

    The variables are the one-hot choices of options, then the auxiliary variables of the decoding
    program of each edge rule that a limit needs.

    Attributes:
        options: of HiGHS.
    """

    def __init__(
        self,
        space: SearchSpace,
        scores: np.ndarray,
        limits: Sequence[Limit],
        *,
        sized: bool = False,
    ) -> None:
        """Set up the program.

        Args:
            space: the search space.
            scores: (choices, max_options), to be maximised.
            limits: the budgets.
            sized: whether the objective will count everything that is chosen, which needs the
                variables of the edge rule `all`.
        """
        self.space = space
        self.limits = [limit for limit in limits if np.isfinite(limit.budget_ms)]
        # The programs of all rules describe the same architectures; without limits, use any.
        rules: list[EdgeRule] = [limit.cost.edges for limit in limits]
        if sized or not rules:
            rules.append("all")
        self.programs: dict[EdgeRule, DecodingProgram] = {
            edges: space.decoding_program(edges) for edges in rules
        }
        self.options: dict[str, float] = {"mip_rel_gap": 0.0}
        mask = space.mask.numpy()
        self.option_count = mask.size
        # Column at which the auxiliary variables of each rule begin.
        self.offsets: dict[EdgeRule, int] = {}
        size = self.option_count
        for edges, program in self.programs.items():
            self.offsets[edges] = size
            size += program.auxiliary
        self.size = size
        self.objective = np.zeros(size)
        self.objective[: self.option_count] = -np.where(mask, scores, 0.0).ravel()
        self.upper_bounds = np.ones(size)
        self.upper_bounds[: self.option_count] = mask.ravel()
        self.sized = [limit for limit in limits if limit.sizes is not None]
        sizes = [limit.sizes for limit in self.sized if limit.sizes is not None]
        for one in sizes:
            self.upper_bounds[: self.option_count] *= one.allowed().ravel()
        # Which of the constraints state each limit.
        self.of_limit: dict[Limit, list[int]] = {}
        self.constraints = [self._structure(*item) for item in self.programs.items()]
        for values, room in (row for one in sizes for row in one.rows()):
            self._add_size(values, room)
        for limit in self.limits:
            self._add_latency(limit, limit.cost.coefficients.mean, 0.0)
            if limit.deviations:
                rng = np.random.default_rng(0)
                for _ in range(FIRST_TANGENTS):
                    self._add_tangent(limit, space.sample(rng))

    def solve(self, k: int) -> list[Architecture]:
        """Return the k best architectures, excluding each before the next one is searched."""
        return list(islice(self.solutions(), k))

    def solutions(self) -> Iterator[Architecture]:
        """Yield the architectures from best to worst, excluding each before searching the next."""
        rejected = 0
        while rejected <= MAX_TANGENTS:
            x = self._optimum()
            if x is None:
                return
            architecture = self.space.architecture(self._chosen(x))
            slow = [one for one in self.limits if not one.is_fast_enough(architecture)]
            for limit in slow:
                self._add_tangent(limit, architecture)
            self._exclude(x)
            # The solver's tolerance may let sizes pass that exceed a limit by a millionth.
            if slow or not all(limit.fits(architecture) for limit in self.sized):
                rejected += 1
            else:
                yield architecture

    def _optimum(self) -> np.ndarray | None:
        """Return the optimal values of the variables, rounded; None if there is no solution."""
        result = milp(
            self.objective,
            integrality=np.arange(self.size) < self.option_count,
            bounds=Bounds(0, self.upper_bounds),
            constraints=self.constraints,
            options=self.options,
        )
        if result.status == 2:
            return None
        if result.x is None and self.options is QUICK:
            return None
        if result.x is None:
            raise HwnasError("the integer program could not be solved", actual=result.message)
        values: np.ndarray = np.round(result.x)
        return values

    def shadow_prices(self) -> dict[Limit, float]:
        """Return the dual value of each finite limit in the linear relaxation, per ms."""
        rows = np.vstack([c.A for c in self.constraints])
        lower, upper = (
            np.concatenate([np.broadcast_to(getattr(c, end), len(c.A)) for c in self.constraints])
            for end in ("lb", "ub")
        )
        has_lower, has_upper = np.isfinite(lower), np.isfinite(upper)
        result = linprog(
            self.objective,
            A_ub=np.vstack([rows[has_upper], -rows[has_lower]]),
            b_ub=np.concatenate([upper[has_upper], -lower[has_lower]]),
            bounds=np.stack([np.zeros(self.size), self.upper_bounds], axis=1),
        )
        if result.x is None:
            raise HwnasError("the linear relaxation could not be solved", actual=result.message)
        duals = np.zeros(len(rows))
        duals[has_upper] = -result.ineqlin.marginals[: has_upper.sum()]
        starts = np.cumsum([0, *(len(c.A) for c in self.constraints)])
        return {
            limit: float(sum(duals[starts[place]] for place in places))
            for limit, places in self.of_limit.items()
        }

    def _column(self, edges: EdgeRule, variable: int) -> int:
        """Return the column of a variable of one rule's decoding program."""
        if variable < self.option_count:
            return variable
        return self.offsets[edges] + variable - self.option_count

    def _structure(self, edges: EdgeRule, program: DecodingProgram) -> LinearConstraint:
        """Return the constraints of the search space's structure under one edge rule."""
        matrix = np.zeros((len(program.matrix), self.size))
        columns = [self._column(edges, v) for v in range(program.matrix.shape[1])]
        matrix[:, columns] = program.matrix
        return LinearConstraint(matrix, program.lower, program.upper)

    def _add_tangent(self, limit: Limit, architecture: Architecture) -> None:
        """Add the limit with its margin linearised at an architecture."""
        gradient, constant_ms = limit.margin(architecture)
        self._add_latency(limit, limit.cost.coefficients.mean + gradient, constant_ms)

    def _add_latency(self, limit: Limit, coefficients: np.ndarray, constant_ms: float) -> None:
        """Add the constraint coefficients @ features + constant <= budget."""
        row = self.latency_row(limit.cost.edges, coefficients)
        room_ms = limit.budget_ms - coefficients[0] - constant_ms
        self.of_limit.setdefault(limit, []).append(len(self.constraints))
        self.constraints.append(LinearConstraint(row[None], -np.inf, room_ms))

    def _add_size(self, values: np.ndarray, room: float) -> None:
        """Add the constraint that what the chosen options take is within what is left.

        It is scaled to 1, since the solver's tolerances are absolute, and half a unit is added,
        since sizes are whole numbers.
        """
        row = np.zeros(self.size)
        scale = max(float(np.abs(values).max()), 1.0)
        row[: self.option_count] = values.ravel() / scale
        self.constraints.append(
            LinearConstraint(row[None], -np.inf, (np.floor(room) + 0.5) / scale)
        )

    def latency_row(self, edges: EdgeRule, coefficients: np.ndarray) -> np.ndarray:
        """Return the weights (variables,) of the latency, without its constant part.

        Args:
            edges: the edge rule that determines which parts run.
            coefficients: coefficients of the latency model.
        """
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
        """Return the index of the option that each choice takes."""
        one_hot = x[: self.option_count].reshape(self.space.mask.shape)
        return [int(option) for option in one_hot.argmax(axis=1)]

    def exclude_useless(self, architecture: Architecture, row: int, empty: Sequence[int]) -> None:
        """Exclude the option of a choice together with the empty options that make it useless.

        An operator is useless if no path of operators leads through it from the input to the
        output, which depends only on where there is none.

        Args:
            architecture: has the useless option.
            row: the choice that takes it.
            empty: the choices that take no operator.
        """
        chosen = self.space.chosen(architecture)
        cut = np.zeros(self.size)
        cut[[choice * self.space.max_options + chosen[choice] for choice in (row, *empty)]] = 1
        self.constraints.append(LinearConstraint(cut[None], -np.inf, len(empty)))

    def _exclude(self, x: np.ndarray) -> None:
        """Exclude an architecture (no-good cut), for all options of its idle choices."""
        chosen = self._chosen(x)
        idle = self.space.idle(chosen)
        deciding = [row for row in range(len(chosen)) if row not in idle]
        cut = np.zeros(self.size)
        cut[[row * self.space.max_options + chosen[row] for row in deciding]] = 1
        self.constraints.append(LinearConstraint(cut[None], -np.inf, len(deciding) - 1))
