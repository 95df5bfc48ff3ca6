"""The document about a run's model beside its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hwnas.budget.gate import NetworkLatency, Session
from hwnas.controls.comparison import Difference, best_of, paired_difference
from hwnas.inspection.process import sha256_of
from hwnas.latency_tables.statistics import paired_ratio
from hwnas.pipeline.control_choice import RANDOM, SEARCHED, Control
from hwnas.pipeline.run import Run

SCHEMA = 1


@dataclass(frozen=True)
class Tested:
    """What was measured of an exported network.

    Attributes:
        sessions: its sessions, in the same rounds as those of all other networks.
        score: the task's score on the test samples, 0 to 1.
        right: (samples,) whether the network's class is right; None for tasks of other answers.
    """

    sessions: Sequence[Session]
    score: float
    right: np.ndarray | None

    @property
    def rounds_ms(self) -> list[float]:
        """The median latency of each round, the mean over the sessions."""
        found: list[float] = np.mean([s.rounds_ms for s in self.sessions], axis=0).tolist()
        return found


def results(run: Run, controls: Sequence[Control], tested: Mapping[str, Tested]) -> dict[str, Any]:
    """The content of `controls.json`, schema 1.

    Args:
        run: has an exported model, whose name among the networks is `SEARCHED`.
        controls: all controls.
        tested: what was measured of the run's model and of the controls that were trained, by name.

    Networks that take turns displace each other from the processor's caches, so that each is a few
    percent slower than alone. The latencies are therefore compared with each other, and with the
    budget only `alone_ms`.

    Returns:
        The run's model under `searched`, the controls by name under `controls`, and under `random`
        the mean of the random networks and the best of as many as take the time of the search. A
        `difference` is that of the run's model to the control, 0 to 1, with its 95 % confidence
        interval where each sample has one class.
    """
    searched = tested[SEARCHED]
    entries: dict[str, dict[str, Any]] = {}
    for control in controls:
        found = tested.get(control.same_as or control.name)
        figures = {} if found is None else _figures(run, found, searched)
        entries[control.name] = asdict(control) | figures
    params, _ = run.problem.space.params_and_macs(run.architecture())
    seconds = {"search": _search_s(run), "training": _training_s(run)}
    return {
        "schema": SCHEMA,
        "model_sha256": sha256_of(run.folder.model),
        "metric": run.problem.task.metric,
        "samples": len(run.problem.dataset.test),
        "budget_ms": run.target.budget_ms(),
        "runtime": run.target.runtime.name,
        "searched": {"seconds": seconds, "params": params} | _figures(run, searched, searched),
        "controls": entries,
        "random": _random(run, controls, tested, seconds),
    }


def _figures(run: Run, found: Tested, searched: Tested) -> dict[str, Any]:
    """Score and latency of one network, and how they differ from those of the run's model."""
    runtime = run.target.runtime
    recorded = run.target.recorded_speed()
    latency = NetworkLatency.of_sessions(found.sessions, runtime.statistic, runtime.name, recorded)
    ratio = paired_ratio(found.rounds_ms, searched.rounds_ms)
    return {
        "score": found.score,
        "difference": asdict(_difference(searched, found)),
        "measured": latency.to_json(),
        "ratio": asdict(ratio.widened(latency.spread, len(found.sessions))),
    }


def _difference(searched: Tested, found: Tested) -> Difference:
    if searched.right is None or found.right is None:
        return Difference(searched.score - found.score)
    return paired_difference(searched.right, found.right)


def _random(
    run: Run,
    controls: Sequence[Control],
    tested: Mapping[str, Tested],
    seconds: Mapping[str, float | None],
) -> dict[str, Any] | None:
    """The random networks together; None if there is none."""
    random = [c for c in controls if c.name.startswith(RANDOM) and c.error is None]
    if not random:
        return None
    found = [tested[control.same_as or control.name] for control in random]
    scores = [one.score for one in found]
    searched = tested[SEARCHED]
    mean = Difference(searched.score - float(np.mean(scores)))
    rights = [one.right for one in found if one.right is not None]
    if rights and searched.right is not None:
        mean = paired_difference(searched.right, np.mean(rights, axis=0))
    times = [c.choice_s + c.training_s for c in random if c.training_s is not None]
    best = _best(rights, times, seconds)
    return {
        "networks": len(random),
        "mean": float(np.mean(scores)),
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "difference": asdict(mean),
        "seconds_each": float(np.mean(times)) if times else None,
        "equal_time": best and best | {"difference": searched.score - best["score"]},
    }


def _best(
    rights: Sequence[np.ndarray], times: Sequence[float], seconds: Mapping[str, float | None]
) -> dict[str, Any] | None:
    """The best of as many random networks as take the time of the search and its training."""
    search_s, training_s = seconds["search"], seconds["training"]
    if not rights or not times or search_s is None or training_s is None:
        return None
    count = max(1, int((search_s + training_s) / float(np.mean(times))))
    return {
        "networks": count,
        "drawn_from": len(rights),
        "score": best_of(rights, count),
    }


def _search_s(run: Run) -> float | None:
    """Seconds of the search with its measurements; None where they were not recorded."""
    times = [
        record["seconds"]
        for record in run.folder.read_history()
        if record["event"] == "time" and record["stage"] == "search"
    ]
    return sum(times) if times else None


def _training_s(run: Run) -> float | None:
    """Seconds of the training of the run's model."""
    seconds = run.folder.read_json(run.folder.metrics).get("seconds")
    return None if seconds is None else float(seconds)
