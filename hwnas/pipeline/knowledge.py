"""What a run takes from a knowledge base before its search, and adds to one at its end."""

from __future__ import annotations

import logging
from datetime import date
from typing import Any

from hwnas.architecture import Architecture
from hwnas.budget.selection import EVENT as MEASUREMENT
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.evaluators.loop import STAGE as SEARCH
from hwnas.knowledge.base import KnowledgeBase
from hwnas.knowledge.embedding import embed
from hwnas.knowledge.experience import experience_from, similar_searches
from hwnas.knowledge.records import RememberedSearch, choices_of, scored_of
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.run import Run
from hwnas.strategies.experience import Experience

logger = logging.getLogger("hwnas")
ACCURACIES = ("training", "table")
"""Evaluators whose loss is 1 - score; that of the others is -score."""


def draw_on_knowledge(run: Run) -> None:
    """Copy what the run's knowledge base has of similar data to `knowledge.jsonl`, if it has one.

    A resumed run keeps its copy, so that its search goes on as it began.

    Raises:
        InputError: when the base cannot be opened, or the run cannot be compared with others.
    """
    location, kept = run.config.knowledge, run.folder.knowledge
    if location is None or kept.exists():
        return
    _require_comparable(run)
    base = KnowledgeBase(location)
    problem = run.problem
    embedding = embed(problem.dataset)
    known = base.searches(problem.space)
    used = similar_searches(known, problem.task.name, embedding)
    write_atomic(kept, "".join(search.model_dump_json() + "\n" for search in used))
    logger.info(
        "knowledge: %d of %d earlier searches of this space are on similar data",
        len(used),
        len(known),
    )


def drawn_experience(run: Run) -> Experience | None:
    """What the run's copy of its knowledge base tells; None without one.

    Raises:
        InputError: when the copy is malformed.
    """
    kept = run.folder.knowledge
    if run.config.knowledge is None or not kept.exists():
        return None
    lines = kept.read_text("utf-8").splitlines()
    searches = [
        RememberedSearch.from_line(line, f"{kept}: line {n}") for n, line in enumerate(lines, 1)
    ]
    problem = run.problem
    return experience_from(problem.space, searches, problem.task.name, embed(problem.dataset))


def remember(run: Run, location: str) -> tuple[RememberedSearch, bool]:
    """Add a run to a knowledge base.

    Args:
        run: has an architecture; its trained network's score is added if there is one.
        location: of the base, a file or the URL of a database.

    Returns:
        What was remembered, and whether it is new to the base.

    Raises:
        InputError: when the run has no architecture yet, its data are not at hand, or the base
            cannot be written.
    """
    search = remembered(run)
    return search, KnowledgeBase(location).add(search)


def remembered(run: Run) -> RememberedSearch:
    """What a knowledge base keeps of a run.

    Raises:
        InputError: when the run has no architecture yet, or cannot be compared with others.
    """
    _require_comparable(run)
    architecture, problem = run.architecture(), run.problem
    scored = _scored(run)
    evaluations = scored_of(scored)
    if run.folder.metrics.exists():
        metrics = run.folder.read_json(run.folder.metrics)
        evaluations += scored_of([(architecture, metrics[metrics["metric"]])], trained=True)
    table = LatencyTable.load(run.folder.latency_table)
    return RememberedSearch(
        created=date.today().isoformat(),
        space=problem.space.name,
        choices=choices_of(problem.space),
        task=problem.task.name,
        embedding=embed(problem.dataset),
        device=table.device.device,
        runtime=table.device.runtime,
        coefficients_ms=tuple(run.target.cost.coefficients.mean.tolist()),
        budget_ms=run.target.budget_ms(),
        evaluator=run.config.search.evaluator,
        evaluations=tuple(evaluations),
    )


def _require_comparable(run: Run) -> None:
    """InputError for runs without data, and for those that shrink a network."""
    if run.config.shrink is not None:
        raise InputError(
            "a network that is shrunk is a space of its own, from which no other search can learn",
            where=f"{run.where}: knowledge",
        )
    if not run.problem.has_data:
        raise InputError(
            "searches are compared by their data, and this one has none",
            where=f"{run.where}: knowledge",
            mend="give the data beside the function `evaluate`",
        )


def _scored(run: Run) -> list[tuple[Architecture, float]]:
    """What the search scored: each evaluation, or the candidates of a supernet."""
    history, space = run.folder.read_history(), run.problem.space
    if run.config.search.evaluator == "supernet":
        candidates = [record for record in history if record["event"] == MEASUREMENT]
        return [(space.architecture(c["choices"]), c["supernet_accuracy"]) for c in candidates]
    perfect = 1.0 if run.config.search.evaluator in ACCURACIES else 0.0
    return [
        (space.from_genotype(record["architecture"]), perfect - record["loss"])
        for record in history
        if record["event"] == SEARCH and "architecture" in record
    ]


def summary(search: RememberedSearch) -> dict[str, Any]:
    """What the command line says of a search in a base."""
    return {
        "space": search.space,
        "task": search.task,
        "evaluator": search.evaluator,
        "evaluations": len(search.evaluations),
    }
