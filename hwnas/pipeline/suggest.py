"""Architectures for data and a device without a search, from what a knowledge base tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.config import Config
from hwnas.errors import InputError
from hwnas.knowledge.base import KnowledgeBase
from hwnas.knowledge.embedding import embed
from hwnas.knowledge.experience import experience_from, similar_searches
from hwnas.knowledge.generator import ArchitectureGenerator, DeviceCosts
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.problem import Problem, derived_seed
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.experience import OPTIMISM, Experience

CANDIDATES = 100
"""Architectures that are generated for the data, the device and the budget."""
CONFIDENCE = 0.9
"""Probability with which a suggested network's predicted latency keeps the budget."""


@dataclass(frozen=True)
class Suggestion:
    """An architecture with what is predicted of its network.

    Attributes:
        architecture: the architecture.
        score, score_deviation: what the evaluators of earlier searches would give it on their
            data, and the standard deviation.
        latency_ms, latency_deviation_ms: on the device of the table.
        probability: with which it keeps the budget.
        params, macs: parameters, and multiply-accumulates for one sample.
    """

    architecture: Architecture
    score: float
    score_deviation: float
    latency_ms: float
    latency_deviation_ms: float
    probability: float
    params: int
    macs: int


def suggest(
    config: Config,
    where: str,
    *,
    base: KnowledgeBase,
    table: LatencyTable,
    budget_ms: float,
    count: int = 10,
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """Propose architectures for a configuration's data and space; nothing is searched or trained.

    Args:
        config: names data, space and seed.
        where: how errors name the configuration.
        base: finished searches.
        table: of the device that the networks are for.
        budget_ms: latency budget in milliseconds.
        count: how many architectures.
        confidence: probability with which the predicted latency has to keep the budget.

    Returns:
        `space`, `searches` (how many earlier searches are on similar data), `trust` (0 to 1),
        `budget_ms`, `confidence`, and `suggestions`, the most promising first, each with its
        `choices` and `genotype` and the figures of `Suggestion`.

    Raises:
        InputError: when the base tells nothing about such data, the table is not of the space, or
            no architecture keeps the budget.
    """
    problem = Problem(config, where)
    space, task, embedding = problem.space, problem.task.name, embed(problem.dataset)
    searches = similar_searches(base.searches(space), task, embedding)
    experience = experience_from(space, searches, task, embedding)
    if not experience:
        scores = sum(len(search.evaluations) for search in searches)
        raise InputError(
            "nothing is known that would tell architectures for these data apart",
            where=base.where,
            expected=f"at least 12 scores of {space.name} on similar data that agree with each "
            "other",
            actual=f"{scores} scores of {len(searches)} searches",
            mend="`hwnas remember DIR` adds finished runs; `hwnas search` needs none",
        )
    limit = Limit(CostModel(space, table), budget_ms, confidence)
    seed = derived_seed(config.seed, "suggestions")
    generator = ArchitectureGenerator(space, searches, seed)
    costs = DeviceCosts(space, limit.cost.coefficients.mean.tolist(), table.device.runtime)
    candidates = generator.sample(costs, embedding, budget_ms, CANDIDATES)
    found = suggestions(space, experience, limit, count, np.random.default_rng(seed), candidates)
    return {
        "space": space.name,
        "searches": len(searches),
        "trust": round(experience.trust, 3),
        "budget_ms": budget_ms,
        "confidence": confidence,
        "suggestions": [_document(space, one) for one in found],
    }


def suggestions(
    space: SearchSpace,
    experience: Experience,
    limit: Limit,
    count: int,
    rng: np.random.Generator,
    candidates: Sequence[Architecture] = (),
) -> list[Suggestion]:
    """The architectures within a budget that are predicted to be the best.

    Several are chosen by an optimistic prediction, so that the best of them is good, and one by the
    expected score alone. The first has the largest expected score. They are searched for from
    generated candidates, from random architectures and from those of the earlier searches.

    Raises:
        InputError: when no architecture keeps the budget.
    """
    optimism = OPTIMISM if count > 1 else 0.0
    found = experience.best(Decoder([limit]), count, rng, optimism=optimism, candidates=candidates)
    found = [found[i] for i in np.argsort(-experience.predict(found)[0], kind="stable")]
    scores, score_deviations = experience.expected_scores(found)
    latencies_ms, deviations_ms = limit.cost.predict(found)
    return [
        Suggestion(
            architecture,
            float(scores[i]),
            float(score_deviations[i]),
            float(latencies_ms[i]),
            float(deviations_ms[i]),
            limit.probability(architecture),
            *space.params_and_macs(architecture),
        )
        for i, architecture in enumerate(found)
    ]


def _document(space: SearchSpace, one: Suggestion) -> dict[str, Any]:
    figures = asdict(one)
    del figures["architecture"]
    genotype = space.to_genotype(one.architecture)
    return {"choices": dict(one.architecture.options), "genotype": genotype, **figures}
