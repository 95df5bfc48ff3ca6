"""Searches in which an evaluation is a look-up in a table of scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.evaluators.accuracy_table import AccuracyTable, TableDecoder
from hwnas.spaces.base import SearchSpace
from hwnas.strategies import STRATEGIES, SearchStrategy, build_strategy


def require_evaluations(strategy: str) -> None:
    """InputError for a strategy that needs the gradient of a supernet."""
    if strategy in STRATEGIES and STRATEGIES[strategy].uses_gradient:
        able = [name for name, known in STRATEGIES.items() if not known.uses_gradient]
        raise InputError(
            "needs the gradient of a supernet, and a table has none",
            where=f"--strategy {strategy}",
            expected=f"one of {', '.join(able)}",
        )


def look_up(
    space: SearchSpace,
    table: AccuracyTable,
    decoder: TableDecoder,
    strategy: str,
    *,
    evaluations: int,
    seed: int,
    settings: Mapping[str, Any],
) -> tuple[Architecture, SearchStrategy]:
    """One search.

    Args:
        space: the search space.
        table: what is looked up; it records the architectures that were evaluated.
        decoder: knows which architectures keep the budget.
        strategy: its name.
        evaluations: architectures that may be looked up.
        seed: of everything random.
        settings: of the strategy.

    Returns:
        The architecture that the strategy holds for the best, and the strategy.
    """
    found = build_strategy(strategy, space, seed, settings, decoder)
    for done in range(evaluations):
        mixture = found.ask()
        outcome = table(space.most_likely(mixture))
        found.tell(mixture, outcome, (done + 1) / evaluations)
    (chosen,) = found.best(decoder, 1)
    return chosen, found


def for_each_seed(
    search: Callable[[int], dict[str, Any]],
    judged: str,
    seeds: Sequence[int],
    progress: Callable[[int, int, str], None],
    unit: str = "",
) -> dict[str, Any]:
    """Search once for each seed.

    Args:
        search: from a seed to a record.
        judged: the entry of a record by which searches are compared.
        seeds: one search each.
        progress: told the seeds done, all seeds, and what was reached.
        unit: behind that number.

    Returns:
        `seeds` (the records), and `mean` and `std` of what is judged.
    """
    records = []
    for done, seed in enumerate(seeds):
        records.append(search(seed))
        progress(done + 1, len(seeds), f"{records[-1][judged]:.2f}{unit}")
    values = [record[judged] for record in records]
    return {"seeds": records, "mean": float(np.mean(values)), "std": float(np.std(values))}
