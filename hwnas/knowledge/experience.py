"""From the records of a knowledge base to what a strategy can begin from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hwnas.architecture import Architecture
from hwnas.knowledge.embedding import similarity
from hwnas.knowledge.records import RememberedSearch
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.experience import EarlierSearch, Experience, earlier_search

LEAST_SIMILARITY = 0.05
"""Similarity of the data below which an earlier search is not used."""
SUPERNET = "supernet"
"""The evaluator whose scores are comparable within one search alone."""
SHORT = "training"
"""The evaluator whose scores are those of short trainings."""


def similarity_of(search: RememberedSearch, task: str, embedding: tuple[float, ...]) -> float:
    """How alike the data of an earlier search and given data are, 0 to 1.

    Args:
        search: the earlier search.
        task: kind of the task of the data.
        embedding: of the data, from `hwnas.knowledge.embedding.embed`.
    """
    return similarity(search.embedding, embedding, same_task=search.task == task)


def similar_searches(
    searches: Iterable[RememberedSearch], task: str, embedding: tuple[float, ...]
) -> list[RememberedSearch]:
    """Those searches whose data are similar enough to be used; arguments as `similarity_of`."""
    return [s for s in searches if similarity_of(s, task, embedding) >= LEAST_SIMILARITY]


def experience_from(
    space: SearchSpace,
    searches: Iterable[RememberedSearch],
    task: str,
    embedding: tuple[float, ...],
) -> Experience:
    """What searches of a space tell about a task.

    Scores of the same data are pooled: those by the same evaluator of single architectures, and
    those of trained networks. Scores of a supernet are only comparable within one search.

    Args:
        space: the search space.
        searches: of this space.
        task: kind of the present task.
        embedding: of its data.

    Raises:
        InputError: when an architecture is not of the space.
    """
    pools: defaultdict[tuple[tuple[float, ...], str], list[tuple[Architecture, float]]]
    pools = defaultdict(list)
    similarities: dict[tuple[float, ...], float] = {}
    for number, search in enumerate(searches):
        similarities[search.embedding] = similarity_of(search, task, embedding)
        evaluator = search.evaluator
        pool = f"{evaluator} {number}" if evaluator == SUPERNET else evaluator
        pools[search.embedding, pool] += search.scored(space)
        pools[search.embedding, "trained"] += search.trained(space)
    earlier: list[EarlierSearch] = [
        earlier_search(pairs, similarities[data], short=pool == SHORT)
        for (data, pool), pairs in pools.items()
        if pairs
    ]
    return Experience(space, earlier)
