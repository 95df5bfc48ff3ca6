"""The section of a report on the search: its curves, the Pareto front, measured candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.budget.gate import judge
from hwnas.reporting.figures import MAX_ROWS, first_rows, line_figure
from hwnas.reporting.finalists import finalists_figures
from hwnas.reporting.formatting import (
    CI,
    CONFIDENCE_INTERVAL,
    milliseconds,
    number,
    percent,
    sentence_case,
)
from hwnas.reporting.html import (
    Html,
    columns,
    details,
    explained,
    figure,
    heading,
    legend,
    missing,
    paragraph,
    status,
    table,
    text,
)
from hwnas.reporting.latency_charts import RunPoint, candidates_chart, runs_chart
from hwnas.reporting.run_files import Interval, Run, interval_at, number_at, text_at
from hwnas.reporting.svg import is_near
from hwnas.strategies.pareto import covered_share, knee, pareto_front

CANDIDATE_SCORES = {
    "supernet": (
        "{metric} with shared weights",
        "Candidates are compared before they are trained. Their {metric} is measured on held-out "
        "training samples with the weights of the supernet, which all architectures share. Shared "
        "weights fit no single architecture well, so this {metric} is far below that of the same "
        "architecture after its own training, and only the order of the candidates means anything. "
        "The {metric} of the trained network on the test samples is at the top of the page.",
    ),
    "training": (
        "{metric} after a short training",
        "Candidates are compared by their {metric} on held-out training samples after a short "
        "training. The chosen architecture is then trained in full; its {metric} "
        "on the test samples is at the top of the page.",
    ),
    "zero-cost": (
        "rank by zero-cost score",
        "Candidates are compared by a score of untrained networks: the share of all architectures "
        "that the search evaluated which score lower. It is no {metric}.",
    ),
    "size": (
        "share of the largest size",
        "Candidates are compared by their size alone, since the largest networks within a latency "
        "budget are hard to beat. It is the geometric mean of parameters and multiply-accumulates, "
        "each as a share of the most in the search space.",
    ),
    "shrink": (
        "{metric} before training",
        "Candidates are compared by their {metric} on training samples, with the channels that are "
        "left of the original network and recalibrated batch norms.",
    ),
    "table": (
        "{metric} in the table",
        "Candidates are compared by their {metric} in the file that `search.accuracy_table` names.",
    ),
}
"""Name and meaning of the score that candidates are compared by, for each `search.evaluator`."""

SUPERNET_CURVES = (
    "The loss is the supernet's on training batches, and on validation batches from the first "
    "update of the architecture parameters on. The expected latency is the mean over the "
    "supernet's operators, weighted by their current probabilities. "
)
EVALUATOR_CURVES = (
    "The loss is that which the evaluator reported for each architecture; the latency is the "
    "prediction for the same architecture. "
)
ENTROPY = (
    "The entropy is that of the option probabilities, normalised and averaged over the choices. "
    "The number of skip connections, where it is shown, is the expected one in the cells."
)


def search_figures(run: Run) -> list[Html]:
    """Loss, expected latency, entropy and skip connections over the steps of the search.

    Nothing before the search.
    """
    if not run.events("search"):
        return []
    losses = (
        run.series("search", "loss", "training"),
        run.series("search", "validation_loss", "validation"),
    )
    is_supernet = _evaluator(run) == "supernet"
    charts = [
        line_figure(
            "Loss of the search", losses, "loss",
            "That of the supernet." if is_supernet else "That of each evaluated architecture.",
        ),
        line_figure(
            "Expected latency", [run.series("search", "latency_ms", "expected")], "latency (ms)",
            "Predicted milliseconds per inference.",
            budget_ms=run.budget_ms,
        ),
        line_figure(
            "Entropy of the choices", [run.series("search", "entropy", "entropy")], "entropy",
            "1 if all options are equally probable, 0 if every choice is decided.", from_zero=True,
        ),
    ]  # fmt: skip
    skips = run.series("search", "skips", "skip connections")
    # Many search spaces have no skip connections.
    if any(skips.y):
        meaning = "A large number can be a sign that the search has collapsed."
        charts.append(line_figure("Skip connections", [skips], "number", meaning, from_zero=True))
    curves = SUPERNET_CURVES if is_supernet else EVALUATOR_CURVES
    return [
        _latency_range(run),
        *_early_end(run),
        columns(charts),
        *_pareto_front(run),
        explained(curves + ENTROPY),
    ]


def _early_end(run: Run) -> list[Html]:
    """Why the search ended before its last step; nothing if it did not."""
    ends = [record for record in run.events("ended") if record.get("stage") == "search"]
    if not ends:
        return []
    steps = number_at(run.settings, "search", "steps")
    return [
        paragraph(
            f"The search ended after {number(number_at(ends[-1], 'step'))} of {number(steps)} "
            f"steps: {text_at(ends[-1], 'reason')}."
        )
    ]


def _latency_range(run: Run) -> Html:
    """The predicted latencies that the search space offers, to put the budget into perspective."""
    events = run.events("budget")
    if not events:
        return missing("The budget has not been set yet.")
    fastest, slowest = (
        milliseconds(number_at(events[-1], key)) for key in ("fastest_ms", "slowest_ms")
    )
    return paragraph(
        f"The predicted latencies of the networks in this search space range from {fastest} to "
        f"{slowest}; the budget is {milliseconds(run.budget_ms)}."
    )


def _pareto_front(run: Run) -> list[Html]:
    """The architectures that are Pareto-optimal in loss and latency.

    Nothing for strategies that do not evaluate architectures one by one.
    """
    evaluated = [
        (str(record["architecture"]), [latency_ms, loss])
        for record in run.events("search")
        if "architecture" in record
        and (latency_ms := number_at(record, "latency_ms")) is not None
        and (loss := number_at(record, "loss")) is not None
    ]
    if not evaluated:
        return []
    distinct = dict(evaluated)
    names, points = list(distinct), np.array(list(distinct.values()))
    front, at_knee = pareto_front(points), knee(points)
    sentence = (
        f"{len(front)} of {len(names)} evaluated architectures are Pareto-optimal in loss and "
        f"predicted latency. They dominate {percent(covered_share(points))} of the rectangle "
        "between the best and the worst values (hypervolume)."
    )
    rows = [
        [
            text(milliseconds(points[i][0])),
            text(number(points[i][1])),
            text("knee" if i == at_knee else ""),
            text(names[i]),
        ]
        for i in front[:MAX_ROWS]
    ]
    header = ["predicted latency", "loss", "note", "architecture"]
    front_table = table("Pareto front", header, rows)
    return [paragraph(sentence), details("Pareto front as a table", front_table)]


def candidates_figures(run: Run) -> list[Html]:
    """The candidates that were exported and measured, and those that were trained then.

    Nothing before the first one.
    """
    records = [(record, interval_at(record)) for record in run.events("measurement")]
    complete = [(record, measured) for record, measured in records if measured is not None]
    if not complete:
        return []
    words, meaning = _candidate_score(run)
    header = (
        "no.", "predicted latency", f"measured latency ({CI})", "within budget", words,
    )  # fmt: skip
    rows = [
        _candidate_row(run, place, record, measured)
        for place, (record, measured) in enumerate(complete, start=1)
    ]
    near = is_near(run.budget_ms, max(measured.high_ms for _, measured in complete))
    budget_ms = run.budget_ms if near else None
    charts = [
        *_score_against_latency(run, complete, budget_ms, words),
        _predicted_and_measured(complete, budget_ms),
    ]
    return [
        heading("Measured candidates"),
        columns(charts),
        first_rows("Candidates", header, rows, "stacked"),
        explained(meaning),
        *finalists_figures(run),
    ]


def _evaluator(run: Run) -> str:
    """How the search scored architectures: a key of `CANDIDATE_SCORES`."""
    stated = text_at(run.settings, "search", "evaluator")
    if "shrink" in run.settings:
        return "shrink"
    return stated if stated in CANDIDATE_SCORES else "supernet"


def _candidate_score(run: Run) -> tuple[str, str]:
    """The name of the score that candidates are compared by, and what it means."""
    words, meaning = CANDIDATE_SCORES[_evaluator(run)]
    metric = run.metric_in_words
    return words.format(metric=metric), meaning.format(metric=metric)


def _score_against_latency(
    run: Run,
    complete: Sequence[tuple[dict[str, Any], Interval]],
    budget_ms: float | None,
    words: str,
) -> list[Html]:
    """The candidates' scores over their measured latencies; nothing for a single one."""
    points = [
        RunPoint(f"{place}", measured, score, None, series=int(_is_chosen(run, record)))
        for place, (record, measured) in enumerate(complete, start=1)
        if (score := number_at(record, "supernet_accuracy")) is not None and 0 <= score <= 1
    ]
    if len(points) < 2:
        return []
    title = sentence_case(f"{words} over latency")
    drawing = runs_chart(title, points, [], words, budgets=False, budget_ms=budget_ms)
    entries = [("s0", "candidate"), ("s1", "chosen")]
    entries += [] if budget_ms is None else [("dashed", "budget")]
    caption = (
        f"One point for each candidate, with the {CONFIDENCE_INTERVAL} of its latency. Left of the "
        "budget and further up is better."
    )
    return [figure(title, caption, legend([], *entries), drawing)]


def _predicted_and_measured(
    complete: Sequence[tuple[dict[str, Any], Interval]], budget_ms: float | None
) -> Html:
    """Predicted and measured latency of the candidates in the order of their measurement."""
    title = "Predicted and measured latency"
    svg = candidates_chart(
        title,
        [number_at(record, "predicted_ms") for record, _ in complete],
        [measured for _, measured in complete],
        budget_ms,
    )
    caption = (
        "Milliseconds per inference of each exported candidate; bars show the "
        f"{CONFIDENCE_INTERVAL}s (CI)."
    )
    dashed = [] if budget_ms is None else [("dashed", "budget")]
    return figure(title, caption, legend(["predicted", "measured"], *dashed), svg)


def _is_chosen(run: Run, record: dict[str, Any]) -> bool:
    """Whether a measured candidate is the architecture that the search found."""
    chosen = run.architecture.get("choices")
    return chosen is not None and record.get("choices") == chosen


def _candidate_row(run: Run, place: int, record: dict[str, Any], measured: Interval) -> list[Html]:
    """The row of a candidate in the table of measured candidates."""
    exceeded = _exceeded_budgets(run, record)
    kept = None
    if run.budget_ms is not None:
        kept = judge(measured.low_ms, measured.high_ms, run.budget_ms)
    return [
        text(f"{place}, chosen" if _is_chosen(run, record) else place),
        text(milliseconds(number_at(record, "predicted_ms"))),
        text(measured.in_words()),
        Html(f"{status('fail')} {text(exceeded)}") if exceeded else status(kept),
        text(percent(number_at(record, "supernet_accuracy"))),
    ]


def _exceeded_budgets(run: Run, record: dict[str, Any]) -> str:
    """The budgets besides latency (memory, energy) that a measured candidate exceeds, in words."""
    budgets = run.settings.get("budget")
    exceeded = []
    for key, word in (("memory_mb", "memory"), ("energy_mj", "energy")):
        value = number_at(record, key)
        limit = number_at(budgets, key) if isinstance(budgets, dict) else None
        if value is not None and limit is not None and value > limit:
            exceeded.append(word)
    return ", ".join(exceeded)
