"""A generator of architectures for data, a device and a budget, learned from earlier searches.

As MetaD2A (Lee et al., "Rapid Neural Architecture Search by Learning to Generate Graphs from
Datasets", ICLR 2021), it generates from the embedding of a dataset, and beside it from what the
parts of the network cost on a device. The architectures are sequences of choices, each of whose
distributions depends on the choices before (Larochelle & Murray, "The Neural Autoregressive
Distribution Estimator", AISTATS 2011).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwnas.architecture import Architecture
from hwnas.knowledge.embedding import LENGTH, SCALES
from hwnas.knowledge.records import RememberedSearch
from hwnas.latency_tables.calibration import deployed_edges
from hwnas.spaces.base import SearchSpace

BUDGETS, BEST = 8, 8
"""Budgets for which it learns the best scored architectures of each data on each device."""
MOST_DEVICES = 20
"""Devices of the base, the latest ones, for which it learns."""
REFERENCE_NETWORKS = 200
"""Number of random architectures to whose latencies costs and budgets are compared."""
HIDDEN, STEPS, BATCH = 64, 200, 128
LEARNING_RATE = 1e-2
SMOOTHING = 0.05
"""Probability that is spread over all options, so that what was never seen can be generated."""


class DeviceCosts:
    """What the architectures of a space cost on a device, relative to random ones.

    Args:
        space: the search space.
        coefficients_ms: (coefficients,) of the latency model of the device.
        runtime: name of the runtime, which says what the networks run.
    """

    def __init__(self, space: SearchSpace, coefficients_ms: Sequence[float], runtime: str) -> None:
        self.space, self.edges = space, deployed_edges(runtime)
        self.coefficients_ms = np.asarray(coefficients_ms)
        rng = np.random.default_rng(0)
        reference = self.latencies_ms([space.sample(rng) for _ in range(REFERENCE_NETWORKS)])
        self.reference_ms = np.sort(reference)

    def latencies_ms(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Predicted latencies, (architectures,)."""
        first_shared, weights = self.space.first_shared, self.space.one_hots(architectures)
        runs = self.space.run_probability(weights, self.edges).flatten(start_dim=1).numpy()
        saved = self.space.saved_work(weights, self.edges).numpy()
        fixed_ms, parts_ms = self.coefficients_ms[0], self.coefficients_ms[1:first_shared]
        total: np.ndarray = fixed_ms + runs @ parts_ms - saved @ self.coefficients_ms[first_shared:]
        return total

    def condition(self, embedding: Sequence[float], budget_ms: float) -> np.ndarray:
        """Data, device and budget as one vector, (LENGTH + choices * max_parts + 2,).

        The cost of each part is in shares of the mean latency of random networks, and the budget is
        both the logarithm of such a share and the share of random networks that keep it.
        """
        mean_ms = max(float(self.reference_ms.mean()), 1e-9)
        kept = np.searchsorted(self.reference_ms, budget_ms, side="right") / REFERENCE_NETWORKS
        costs = self.coefficients_ms[1 : self.space.first_shared] / mean_ms
        budget = [np.log(max(budget_ms, 1e-9) / mean_ms), kept]
        return np.concatenate([np.asarray(embedding) / SCALES, costs, budget])


class ArchitectureGenerator:
    """Generates what the best scored architectures of similar data were, for a device and a budget.

    Scores do not depend on the device, so those of every search count on every device of the base.

    Args:
        space: the search space.
        searches: of this space.
        seed: of weights, training and samples.

    Attributes:
        examples: number of best architectures, each for a condition, that it has learned from.
    """

    def __init__(self, space: SearchSpace, searches: Iterable[RememberedSearch], seed: int) -> None:
        self.space, self.seed = space, seed
        examples = list(_examples(space, list(searches)))
        self.examples = len(examples)
        if not examples:
            return
        conditions, architectures = zip(*examples, strict=True)
        rows = np.array(conditions)
        self.mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        # What is the same in the whole base tells nothing, and is left out.
        self.scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _Autoregressive(rows.shape[1], space.mask)
            self._fit(self._standardised(rows), space.one_hots(architectures).float())

    def sample(
        self, costs: DeviceCosts, embedding: Sequence[float], budget_ms: float, count: int
    ) -> list[Architecture]:
        """Generate architectures, of which some may be equal or over the budget.

        Args:
            costs: of the device that they are for.
            embedding: of the data.
            budget_ms: latency budget in milliseconds.
            count: how many; none are generated if nothing was learned.
        """
        if not self.examples:
            return []
        row = self._standardised(costs.condition(embedding, budget_ms)[None]).expand(count, -1)
        rng = np.random.default_rng([self.seed, count])
        decided: list[list[int]] = [[] for _ in range(count)]
        taken = torch.zeros(count, *self.space.mask.shape)
        for choice in range(len(self.space.choices)):
            with torch.no_grad():
                log_p = self.network(row, taken)[:, choice].double().numpy()
            drawn = log_p + rng.gumbel(size=log_p.shape)
            for options, scores, one in zip(decided, drawn, taken, strict=True):
                options.append(max(self.space.open_options(options), key=scores.__getitem__))
                one[choice, options[-1]] = 1
        return [self.space.architecture(options) for options in decided]

    def _standardised(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(((rows - self.mean) * self.scale).clip(-3, 3)).float()

    def _fit(self, conditions: Tensor, one_hots: Tensor) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            batch = torch.randint(len(conditions), (BATCH,))
            log_p = self.network(conditions[batch], one_hots[batch])
            spread = self.space.mask / self.space.mask.sum(dim=1, keepdim=True)
            wanted = (1 - SMOOTHING) * one_hots[batch] + SMOOTHING * spread
            optimizer.zero_grad()
            torch.autograd.backward(-(wanted * log_p).sum(dim=(1, 2)).mean())
            optimizer.step()
            schedule.step()
        self.network.requires_grad_(False)


class _Autoregressive(nn.Module):
    """Log-probabilities of each choice's options, given the options before and a condition."""

    def __init__(self, conditions: int, mask: Tensor) -> None:
        super().__init__()
        choices, options = mask.shape
        self.mask = mask
        self.given = nn.Linear(conditions, HIDDEN)
        self.taken = nn.Parameter(0.1 * torch.randn(choices, options, HIDDEN))
        self.offset = nn.Parameter(0.1 * torch.randn(choices, HIDDEN))
        self.weight = nn.Parameter(0.1 * torch.randn(choices, HIDDEN, options))
        self.bias = nn.Parameter(torch.zeros(choices, options))

    def forward(self, condition: Tensor, one_hots: Tensor) -> Tensor:
        """Of (N, conditions) and (N, choices, options), of which the later ones are not read."""
        of_each = torch.einsum("nco,coh->nch", one_hots, self.taken)
        before = of_each.cumsum(dim=1) - of_each
        hidden = functional.relu(self.given(condition)[:, None] + before + self.offset)
        logits = torch.einsum("nch,cho->nco", hidden, self.weight) + self.bias
        return functional.log_softmax(logits.masked_fill(~self.mask, -1e4), dim=2)


def _examples(
    space: SearchSpace, searches: Sequence[RememberedSearch]
) -> Iterator[tuple[np.ndarray, Architecture]]:
    """Yield the best scored architectures within several budgets, each with its condition."""
    lengths = len(space.coefficient_options)
    devices = {
        (s.runtime, s.coefficients_ms): DeviceCosts(space, s.coefficients_ms, s.runtime)
        for s in searches
        if len(s.coefficients_ms) == lengths and len(s.embedding) == LENGTH
    }
    latest = list(devices.values())[-MOST_DEVICES:]
    for search in searches:
        scored = search.scored(space) if len(search.embedding) == LENGTH else []
        ranked = [a for a, _ in sorted(scored, key=lambda pair: -pair[1])]
        if len(ranked) < BEST:
            continue
        for costs in latest:
            latencies_ms = costs.latencies_ms(ranked)
            for quantile in np.linspace(0, 1, BUDGETS + 1)[1:]:
                budget_ms = float(np.quantile(latencies_ms, quantile))
                condition = costs.condition(search.embedding, budget_ms)
                kept = (a for a, ms in zip(ranked, latencies_ms, strict=True) if ms <= budget_ms)
                yield from ((condition, a) for a, _ in zip(kept, range(BEST), strict=False))
