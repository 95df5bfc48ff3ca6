"""The stage that explains a run: why this network, and how far it can be trusted.

Writes `explanation.json`, which the report's chapters read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.decode import Decoder
from hwnas.data import split_train
from hwnas.errors import HwnasError, InputError, RuntimeMissingError
from hwnas.explaining.alternatives import (
    Alternative,
    alternatives,
    differing,
    paired_difference,
    random_architectures,
)
from hwnas.explaining.budget_change import first_change
from hwnas.explaining.certainty import agreements, certainties, shared_choices
from hwnas.explaining.importance import importances
from hwnas.pipeline.candidates import Searched
from hwnas.pipeline.evaluation import short_training
from hwnas.pipeline.run import Run
from hwnas.pipeline.search import finished_search
from hwnas.pipeline.trust import trust
from hwnas.reporting.run_files import Run as RunFiles
from hwnas.runs import interruption
from hwnas.strategies.gradient import GradientStrategy

SCHEMA = 1
RANDOM = 128
"""Random architectures from which the importance of choices is learned."""
GROWTH = 1.1
"""How much larger the budget is in the question what would change first."""
NEXT_BEST = 4
"""Best architectures within the budget that are listed."""
CHUNK = 8
"""Architectures that are scored between two steps of the progress."""
INSTANT = ("table", "zero-cost")
"""Evaluators that score any architecture at once."""


def explain(run: Run, others: Sequence[Run] = (), *, train: int = 0) -> dict[str, Any]:
    """Explain what a run found, and write `explanation.json`.

    What needs a stage that has not run yet, or a library that is not installed, is left out and
    named in `notes`.

    Args:
        run: has an architecture.
        others: runs with other seeds, with which its choices are compared.
        train: how many of the most promising alternatives are trained shortly, as is the found
            architecture.

    Returns:
        The content of the file.

    Raises:
        InputError: when there is no architecture yet, or another run searched another space.
        Interrupted: after a signal; nothing is written.
    """
    started = time.monotonic()
    notes: list[str] = []
    architecture = run.architecture()
    networks = _architectures(run, others)
    found = alternatives(run.target.cost, architecture)
    searched = _finished(run, notes)
    scores = _Scores.of(run, searched, [architecture, *(a.architecture for a in found)])
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "space": run.problem.space.name,
        "evaluator": run.config.search.evaluator,
        "runs": [str(other.folder.path) for other in others],
        "choices": _choices(run, networks, found, scores),
        "agreement": _agreement(run, networks),
        "budget": _budget(run, searched),
        "importance": _importance(run, scores, notes),
    }
    if train:
        _train_alternatives(run, document["choices"], architecture, found, scores, train)
    if run.folder.weights.exists():
        document |= trust(run, notes)
    else:
        notes.append("The network is not trained yet, so nothing is said of its predictions.")
    document |= {"notes": notes, "seconds": round(time.monotonic() - started, 1)}
    run.folder.write_json(run.folder.explanation, document)
    return document


def _finished(run: Run, notes: list[str]) -> Searched | None:
    """The finished search with what scored networks; None, with a note, without its checkpoint."""
    try:
        return finished_search(run)
    except InputError as error:
        notes.append(f"Options are not compared by score: {error}.")
        return None


class _Scores:
    """Scores of architectures by what the search judged them with.

    Attributes:
        blocks: scores (blocks,) on blocks of validation samples, by architecture; a single block
            where the evaluator gives one number.
        random: the architectures that were drawn to learn the importance of choices.
    """

    def __init__(self, blocks: dict[Architecture, np.ndarray], random: list[Architecture]) -> None:
        self.blocks = blocks
        self.random = random

    @classmethod
    def of(cls, run: Run, searched: Searched | None, asked: Sequence[Architecture]) -> _Scores:
        """Score the architectures and random ones; without a supernet, use what is known."""
        known = _evaluated(run)
        if searched is None:
            return cls(known, list(known))
        space, config = run.problem.space, run.config.search
        rng = np.random.default_rng(run.seed("explanation"))
        if searched.score_blocks is not None:
            random = random_architectures(space, RANDOM, rng)
            wanted = list(dict.fromkeys([*asked, *random]))
            blocks: dict[Architecture, np.ndarray] = {}
            with run.stage("score options") as advance:
                for start in range(0, len(wanted), CHUNK):
                    interruption.stop_if_requested()
                    part = wanted[start : start + CHUNK]
                    blocks |= dict(zip(part, searched.score_blocks(part), strict=True))
                    advance(len(blocks), len(wanted), "")
            return cls(blocks, random)
        if config.evaluator in INSTANT:
            random = list(known) or random_architectures(space, RANDOM, rng)
            wanted = list(dict.fromkeys([*asked, *random]))
            values = searched.rank(wanted)
            pairs = zip(wanted, values, strict=True)
            return cls({a: np.array([v]) for a, v in pairs if np.isfinite(v)}, random)
        return cls(known, list(known))

    def difference(self, one: Architecture, other: Architecture) -> dict[str, float | None]:
        """The score of another architecture minus that of one, and its standard error."""
        if one not in self.blocks or other not in self.blocks:
            return {"score": None, "error": None}
        score, error = paired_difference(self.blocks[other], self.blocks[one])
        return {"score": score, "error": error}


def _evaluated(run: Run) -> dict[Architecture, np.ndarray]:
    """The architectures that the search evaluated one by one, with the negative of their loss."""
    space = run.problem.space
    return {
        space.from_genotype(record["architecture"]): np.array([-record["loss"]])
        for record in run.folder.read_history()
        if record["event"] == "search" and "architecture" in record
    }


def _choices(
    run: Run,
    networks: Sequence[Architecture],
    found: Sequence[Alternative],
    scores: _Scores,
) -> list[dict[str, Any]]:
    """What was taken for each choice, how sure that was, and what else there was.

    Args:
        run: the explained run.
        networks: what it and the runs beside it found, its own first.
        found: alternatives of its network.
        scores: of the network and its alternatives.
    """
    space, architecture = run.problem.space, networks[0]
    steps, shares = RunFiles.read(run.folder).trajectory(space.choices)
    certain = certainties(space, architecture, steps, shares)
    agreed = agreements(space, networks) if len(networks) > 1 else {}
    return [
        {
            "choice": name,
            "option": option,
            "certainty": asdict(certain[name]) if name in certain else None,
            "agreement": asdict(agreed[name]) | {"stable": agreed[name].is_stable}
            if name in agreed
            else None,
            "alternatives": [
                {
                    "option": one.option,
                    "followers": list(one.followers),
                    "difference_ms": one.difference_ms,
                    "deviation_ms": one.deviation_ms,
                    "params": one.params,
                    **scores.difference(architecture, one.architecture),
                }
                for one in found
                if one.choice == name
            ],
        }
        for name, option in architecture
    ]


def _architectures(run: Run, others: Sequence[Run]) -> list[Architecture]:
    """What each run found, the explained one first.

    Raises:
        InputError: when one searched another space.
    """
    space = run.problem.space
    for other in others:
        if other.problem.space.choices != space.choices or other.problem.space.name != space.name:
            raise InputError(
                "runs of different search spaces cannot be compared",
                where=str(other.folder.path),
                expected=f"{space.name} with the choices of {run.folder.path}",
                actual=other.problem.space.name,
            )
    return [one.architecture() for one in (run, *others)]


def _agreement(run: Run, networks: Sequence[Architecture]) -> dict[str, Any] | None:
    """How far all runs agree; None for a single one."""
    if len(networks) == 1:
        return None
    found, by_chance = shared_choices(run.problem.space, networks)
    return {"runs": len(networks), "shared": found, "by_chance": by_chance}


def _budget(run: Run, searched: Searched | None) -> dict[str, Any]:
    """What a larger budget would change, and what is nearly as good within it."""
    limits, size_weight = run.target.limits(), run.config.search.size_weight
    found: dict[str, Any] = {
        "budget_ms": limits[0].budget_ms,
        "predicted_ms": limits[0].cost.latency_ms(run.architecture()),
    }
    if searched is None:
        return found
    strategy = searched.strategy

    def decoder(factor: float) -> Decoder:
        first = replace(limits[0], budget_ms=factor * limits[0].budget_ms)
        return Decoder([first, *limits[1:]], size_weight)

    if isinstance(strategy, GradientStrategy):
        prices = decoder(1.0).shadow_prices(strategy.decoding_scores())
        found["price_per_ms"] = prices[0]
    change = first_change(lambda factor: strategy.best(decoder(factor))[0], GROWTH)
    best = strategy.best(decoder(1.0), NEXT_BEST)
    found["largest_factor"] = GROWTH
    found["change"] = None
    if change is not None:
        found["change"] = {
            "factor": change.factor,
            "latency_ms": limits[0].cost.latency_ms(change.after),
            "choices": _changes(change.before, change.after),
        }
    found["best"] = [
        {
            "latency_ms": limits[0].cost.latency_ms(one),
            "params": run.problem.space.params_and_macs(one)[0],
            "choices": _changes(run.architecture(), one),
        }
        for one in best
    ]
    return found


def _changes(before: Architecture, after: Architecture) -> list[dict[str, str]]:
    return [
        {"choice": name, "from": before[name], "to": after[name]}
        for name in differing(before, after)
    ]


def _importance(run: Run, scores: _Scores, notes: list[str]) -> dict[str, Any] | None:
    """How much each choice matters for latency and score; None, with a note, if not known."""
    space, cost = run.problem.space, run.target.cost
    sample = [a for a in scores.random if a in scores.blocks]
    if len(sample) < 2 * len(space.choices):
        notes.append(
            f"The importance of choices is not estimated: {len(sample)} scored architectures are "
            f"too few for {len(space.choices)} choices."
        )
        return None
    try:
        with run.stage("importance") as advance:
            by_score = importances(space, sample, [float(scores.blocks[a].mean()) for a in sample])
            advance(1, 2, "score")
            by_latency = importances(space, sample, cost.predict(sample)[0].tolist())
            advance(2, 2, "latency")
    except RuntimeMissingError as error:
        notes.append(f"The importance of choices is left out: {error}.")
        return None
    return {"samples": len(sample), "score": by_score, "latency": by_latency}


def _train_alternatives(
    run: Run,
    choices: list[dict[str, Any]],
    architecture: Architecture,
    found: Sequence[Alternative],
    scores: _Scores,
    count: int,
) -> None:
    """Train the found architecture and the most promising alternatives; note their scores."""

    def promise(one: Alternative) -> float:
        return scores.difference(architecture, one.architecture)["score"] or 0.0

    kept = sorted(found, key=promise, reverse=True)[:count]
    training, validation = split_train(run.problem.dataset.train, 0.5, run.seed("halves"))
    evaluate = short_training(run, training, validation)
    with run.stage("train options") as advance:
        reference = evaluate(architecture)
        for done, one in enumerate(kept, start=1):
            interruption.stop_if_requested()
            advance(done - 1, len(kept), f"{one.choice}: {one.option}")
            try:
                trained = evaluate(one.architecture) - reference
            except HwnasError as error:
                raise InputError(
                    "an option cannot be trained", where=one.choice, actual=error
                ) from None
            (entry,) = (c for c in choices if c["choice"] == one.choice)
            (row,) = (a for a in entry["alternatives"] if a["option"] == one.option)
            row["trained"] = trained
            advance(done, len(kept), f"{one.choice}: {one.option}")
