"""Exact decoding: the best architectures under latency budgets by integer linear programming.

The sum of the scores of the chosen options is maximised subject to the structure of the search
space and to predicted latency <= budget for each limit. With log-probabilities as scores, the
solution is the most probable architecture of the search distribution that is within the budgets. A
limit with a confidence adds a margin that is convex in the variables; it is approximated by
tangents (outer approximation: Duran & Grossmann, "An outer-approximation algorithm for a class of
mixed-integer nonlinear programs", Mathematical Programming 36, 1986). The k best architectures are
found one after the other by excluding each solution (no-good cuts). The solver is HiGHS, called
through `scipy.optimize.milp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.integer_program import QUICK, TIE_NOISE, IntegerProgram
from hwnas.budget.limit import Limit
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace

RANDOM_SIZES = 200
"""Number of random architectures from which the standard deviation of sizes is estimated."""
FAR_BELOW = 10.0
"""Difference of scores beyond which an option is taken for impossible."""


class Decoder:
    """Finds the best architectures of a search space that are predicted to keep all budgets.

    Args:
        limits: all of the same search space.
        size_weight: what size adds to the score of an architecture: as many standard deviations of
            the scores as its size is above the mean, times this weight. The deviations are those
            of random architectures. With a weight, architectures with weights that have no
            influence on the output are left out, and the order is exact to within `TIE_NOISE`.
        space: the search space; needed where there are no limits.
    """

    def __init__(
        self, limits: Sequence[Limit], size_weight: float = 0.0, space: SearchSpace | None = None
    ) -> None:
        self.limits = tuple(limits)
        self.space = limits[0].cost.space if space is None else space
        self.size_weight = size_weight

    def is_feasible(self, architecture: Architecture) -> bool:
        """Return whether the predicted latencies and the sizes are within all budgets."""
        return all(limit.is_kept(architecture) for limit in self.limits)

    def best(self, scores: np.ndarray, k: int = 1) -> list[Architecture]:
        """Return the k architectures of highest total score within the budgets, best first.

        Args:
            scores: (choices, max_options); finite where the space has an option.
            k: number of architectures; fewer are returned if fewer keep the budgets.

        Raises:
            InputError: no architecture keeps the budgets; the message states the possible range.
        """
        found = list(islice(self.ranked(scores), k))
        if not found:
            raise self._nothing_found()
        return found

    def ranked(self, scores: np.ndarray) -> Iterator[Architecture]:
        """Yield the architectures within the budgets in descending order of their total score.

        Args:
            scores: (choices, max_options), as for `best`.
        """
        program = self._program(scores)
        if self.size_weight:
            yield from self._without_useless(program, standardised_sizes(self.space))
        else:
            yield from program.solutions()

    def _nothing_found(self) -> InputError:
        """The error that states the budgets and what is possible."""
        mask, ranges, sizes = self.space.mask.numpy(), [], []
        for limit in self.limits:
            fastest_ms, slowest_ms = latency_range_ms(limit.cost)
            ranges.append(f"{fastest_ms:.4g} to {slowest_ms:.4g} ms")
            sizes += [] if limit.sizes is None else limit.sizes.in_words(mask)
        possible = f"a budget in the range of predicted latencies ({'; '.join(ranges)})"
        if sizes:
            possible += f" and together with it {', '.join(least for _, least in sizes)}"
        budgets = [f"{limit.budget_ms:.4g} ms" for limit in self.limits]
        return InputError(
            "no architecture keeps the budget",
            where="budget" if sizes else "budget_ms",
            expected=possible,
            actual="; ".join([*budgets, *(stated for stated, _ in sizes)]),
            mend="raise the budget or use a search space with smaller networks",
        )

    def largest(
        self, sizes: np.ndarray, rng: np.random.Generator | None = None
    ) -> Iterator[Architecture]:
        """Yield the architectures within the budgets in descending order of size.

        Architectures with weights that have no influence on the output, such as those of an edge
        that leads to no output, are left out: they compute what a smaller one computes.

        Args:
            sizes: (coefficients,), the size of each part, such as a column of
                `space.coefficient_params_and_macs`.
            rng: breaks ties, which are frequent. It makes the solver several times faster, and the
                order is then exact only to within about `TIE_NOISE` of the size. Without it the
                order is exact.
        """
        scale = float(np.abs(sizes[1:]).max()) or 1.0
        scores = np.zeros(self.space.mask.shape)
        if rng is not None:
            scores = rng.random(scores.shape) * TIE_NOISE / len(scores)
        program = IntegerProgram(self.space, scores, self.limits, sized=True)
        program.objective -= program.latency_row("all", sizes / scale)
        program.options = program.options if rng is None else QUICK
        yield from self._without_useless(program, sizes)

    def shadow_prices(self, scores: np.ndarray) -> list[float]:
        """Return what a budget is worth: the growth of the best total with each limit, per ms.

        They are the dual values of the budgets in the linear relaxation, in which a choice may take
        fractions of options (Dantzig, "Linear Programming and Extensions", 1963, chapter 12). 0 for
        a budget that is not exhausted.

        Args:
            scores: (choices, max_options), as for `best`.

        Returns:
            In units of the scores for each ms, one for each of the limits.
        """
        prices = self._program(scores).shadow_prices()
        return [prices.get(limit, 0.0) for limit in self.limits]

    def _program(self, scores: np.ndarray) -> IntegerProgram:
        """Return the program of scores, with what size adds to them."""
        program = IntegerProgram(self.space, scores, self.limits, sized=self.size_weight > 0)
        if self.size_weight:
            sizes = program.latency_row("all", standardised_sizes(self.space))
            program.objective -= self.size_weight * spread(self.space, scores) * sizes
            program.options = {"mip_rel_gap": TIE_NOISE, "presolve": False}
        return program

    def _without_useless(
        self, program: IntegerProgram, sizes: np.ndarray
    ) -> Iterator[Architecture]:
        """Yield a program's solutions without weights that have no influence on the output."""
        of_parts = sizes[1 : self.space.first_shared].reshape(len(self.space.choices), -1)
        for architecture in program.solutions():
            one_hot = self.space.one_hots([architecture])
            live, chosen = (self.space.run_probability(one_hot, rule) for rule in ("live", "all"))
            useless = (((chosen - live)[0].numpy() * of_parts).sum(axis=1) > 0).nonzero()[0]
            empty = (chosen[0].sum(dim=1) == 0).nonzero()[:, 0].tolist()
            for row in useless:
                program.exclude_useless(architecture, int(row), empty)
            if not len(useless):
                yield architecture


def standardised_sizes(space: SearchSpace) -> np.ndarray:
    """Return the size of each part, (coefficients,): the mean of parameters and MACs.

    Each is divided by its standard deviation over random architectures.
    """
    counts = space.coefficient_params_and_macs
    rng = np.random.default_rng(0)
    one_hots = space.one_hots([space.sample(rng) for _ in range(RANDOM_SIZES)])
    parts = space.run_probability(one_hots, "all").flatten(start_dim=1).numpy()
    deviations = (parts @ counts[1 : space.first_shared]).std(axis=0)
    sizes: np.ndarray = (counts / np.maximum(deviations, 1e-12)).mean(axis=1)
    return sizes


def spread(space: SearchSpace, scores: np.ndarray) -> float:
    """Return the standard deviation of the scores of random architectures.

    Options far below the best one of their choice, such as pruned ones, count as `FAR_BELOW` it.
    """
    mask = space.mask.numpy()
    rows = [row[present] for row, present in zip(scores, mask, strict=True)]
    variances = [np.maximum(row, row.max() - FAR_BELOW).var() for row in rows]
    return float(np.sqrt(np.sum(variances)))


def latency_range_ms(cost: CostModel) -> tuple[float, float]:
    """Return the predicted latencies of the fastest and of the most expensive network.

    The most expensive network has the largest sum of part costs. It is also the slowest, unless
    the runtime saves work that its operators share.
    """
    fastest = IntegerProgram(cost.space, np.zeros(cost.space.mask.shape), [Limit(cost)])
    fastest.objective = fastest.latency_row(cost.edges, cost.coefficients.mean)
    dearest = _maximising(cost.space, cost.coefficients.mean)
    return cost.latency_ms(fastest.solve(1)[0]), cost.latency_ms(dearest)


def params_and_macs_ranges(space: SearchSpace) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the smallest and largest number of parameters in the space, and of MACs."""
    counts = space.coefficient_params_and_macs
    least = [space.params_and_macs(_maximising(space, -counts[:, i]))[i] for i in range(2)]
    most = [space.params_and_macs(_maximising(space, counts[:, i]))[i] for i in range(2)]
    return (least[0], most[0]), (least[1], most[1])


def smallest_and_largest(space: SearchSpace) -> tuple[Architecture, Architecture]:
    """Return the architectures with the fewest and the most multiply-accumulate operations."""
    macs = space.coefficient_params_and_macs[:, 1]
    return _maximising(space, -macs), _maximising(space, macs)


def _maximising(space: SearchSpace, coefficients: np.ndarray) -> Architecture:
    """Return the architecture with the largest sum of coefficients of its chosen parts.

    Args:
        space: the search space.
        coefficients: (1 + choices * max_parts, ...), the first one being constant.
    """
    program = IntegerProgram(space, np.zeros(space.mask.shape), [])
    program.objective = -program.latency_row("all", coefficients)
    return program.solve(1)[0]
