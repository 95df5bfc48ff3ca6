"""A run as it is now, for those who watch it from another process."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hwnas.errors import HwnasError
from hwnas.reporting.formatting import count, milliseconds, number, percent
from hwnas.reporting.run_files import Run, Series, interval_at, number_at
from hwnas.runs.heartbeat import Heartbeat
from hwnas.runs.run_folder import RunFolder

BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
WIDTH = 40
"""Characters of a line's course."""
SILENT_S = 120
"""A process that has written nothing for so long is said to be silent."""


@dataclass(frozen=True)
class Snapshot:
    """What is known of a run at one moment.

    Attributes:
        state: `running`, `finished`, `stopped` or `not started`.
        facts: names and values.
        courses: names of curves, each with its course as a row of blocks and its last value.
    """

    state: str
    facts: list[tuple[str, str]]
    courses: list[tuple[str, str, str]]


def snapshot(folder: RunFolder, now: float | None = None) -> Snapshot:
    """Read what a run is doing; files that are being written count as missing.

    Args:
        folder: of the run.
        now: seconds since 1970; the present if None.

    Raises:
        InputError: when the folder holds no run.
    """
    folder.require(folder.config)
    try:
        run = Run.read(folder)
    except HwnasError:  # a file was replaced meanwhile
        run = Run.read(folder)
    beat = Heartbeat.read(folder.heartbeat)
    state = _state(run, beat, folder)
    facts = [("state", state), *_stage(beat, state, time.time() if now is None else now)]
    return Snapshot(state, [*facts, *_search(run), *_results(run)], _courses(run))


def _state(run: Run, beat: Heartbeat | None, folder: RunFolder) -> str:
    if beat is not None and beat.is_alive:
        return "running"
    if run.verdict is not None and folder.report.exists():
        return "finished"
    return "stopped" if run.history else "not started"


def _stage(beat: Heartbeat | None, state: str, now: float) -> list[tuple[str, str]]:
    """The stage, how far it is, and what the process needs."""
    if beat is None:
        return []
    if state == "finished":
        return [("memory at most", f"{count(beat.memory_mb)} MB")]
    facts = [("stage", beat.stage), ("step", f"{count(beat.done)} of {count(beat.total)}")]
    if state == "stopped":
        ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(beat.updated))
        return [*facts, ("last seen", f"{ended}; `hwnas run --resume` continues")]
    left = beat.seconds_left
    facts.append(("time left in the stage", "not known" if left is None else _duration(left)))
    facts.append(("memory at most", f"{count(beat.memory_mb)} MB"))
    if now - beat.updated > SILENT_S:
        facts.append(("silent for", _duration(now - beat.updated)))
    return facts


def _search(run: Run) -> list[tuple[str, str]]:
    """The newest record of the search: entropy, expected latency against the budget, and more."""
    records = run.events("search")
    if not records:
        return []
    last = records[-1]
    facts = [("search", f"step {count(number_at(last, 'step'))}")]
    for key, name in (("loss", "loss"), ("validation_loss", "validation loss")):
        value = number_at(last, key)
        if value is not None:
            facts.append((name, number(value)))
    entropy, latency_ms = number_at(last, "entropy"), number_at(last, "latency_ms")
    if entropy is not None:
        facts.append(("entropy of the choices", number(entropy, 3)))
    if latency_ms is not None:
        share = "" if not run.budget_ms else f", {percent(latency_ms / run.budget_ms, 0)} of it"
        budget = milliseconds(run.budget_ms)
        facts.append(("expected latency", f"{milliseconds(latency_ms)}; budget {budget}{share}"))
    eigenvalue = number_at(last, "eigenvalue")
    if eigenvalue is not None:
        facts.append(("dominant eigenvalue", number(eigenvalue, 3)))
    losses = [value for r in records if "architecture" in r and (value := number_at(r, "loss"))]
    if losses:
        facts.append(("best loss so far", number(min(losses))))
    return facts


def _results(run: Run) -> list[tuple[str, str]]:
    """The best measured candidate, the training's last record, the verdict."""
    facts = []
    kept = [
        (score, measured)
        for record in run.events("measurement")
        if (measured := interval_at(record)) is not None
        and (score := number_at(record, "supernet_accuracy")) is not None
        and (run.budget_ms is None or measured.high_ms <= run.budget_ms)
    ]
    if kept:
        score, measured = max(kept, key=lambda pair: pair[0])
        facts.append(("best candidate", f"{percent(score)} at {measured.in_words()}"))
    trained = run.events("train")
    if trained:
        step, loss = (number_at(trained[-1], key) for key in ("step", "loss"))
        facts.append(("training", f"step {count(step)}, loss {number(loss)}"))
    if run.score is not None:
        facts.append((run.metric_in_words, percent(run.score)))
    if run.verdict is not None:
        facts.append(("verdict", run.verdict))
    return facts


def _courses(run: Run) -> list[tuple[str, str, str]]:
    """The curves of the search and of the training as rows of blocks."""
    lines = [
        run.series("search", "loss", "search loss"),
        run.series("search", "validation_loss", "validation loss"),
        run.series("search", "entropy", "entropy"),
        run.series("search", "latency_ms", "expected latency (ms)"),
        run.series("search", "eigenvalue", "eigenvalue"),
        run.series("train", "loss", "training loss"),
        run.series("train", "test_score", "test score"),
    ]
    return [(line.label, blocks(line), number(line.y[-1])) for line in lines if len(line.y) > 1]


def blocks(line: Series) -> str:
    """A curve as a row of at most `WIDTH` blocks, from its smallest to its largest value."""
    size = -(-len(line.y) // WIDTH)
    groups = [line.y[i : i + size] for i in range(0, len(line.y), size)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    room = high - low or 1.0
    return "".join(BLOCKS[round((len(BLOCKS) - 1) * (mean - low) / room)] for mean in means)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
