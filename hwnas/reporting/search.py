"""The section of a report on the search: its curves, the Pareto front, measured candidates."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.budget.gate import judge
from hwnas.reporting.figures import MAX_ROWS, first_rows, line_figure
from hwnas.reporting.formatting import CI, CONFIDENCE_INTERVAL, milliseconds, number, percent
from hwnas.reporting.html import (
    Html,
    columns,
    details,
    figure,
    legend,
    missing,
    paragraph,
    status,
    table,
    text,
)
from hwnas.reporting.latency_charts import candidates_chart
from hwnas.reporting.run_files import Interval, Run, interval_at, number_at
from hwnas.reporting.svg import is_near
from hwnas.strategies.pareto import covered_share, knee, pareto_front


def search_figures(run: Run) -> list[Html]:
    """Loss, expected latency, entropy and skip connections over the steps of the search."""
    if not run.events("search"):
        return [missing("The search has not run yet.")]
    losses = (
        run.series("search", "loss", "training"),
        run.series("search", "validation_loss", "validation"),
    )
    charts = [
        line_figure(
            "Loss of the search", losses, "loss",
            "With a supernet: its cross-entropy; there is a validation loss from the first "
            "update of the architecture parameters on. Otherwise: the loss that the evaluator "
            "reported for each architecture.",
        ),
        line_figure(
            "Expected latency", [run.series("search", "latency_ms", "expected")], "latency (ms)",
            "Predicted milliseconds per inference. With a supernet: the mean over its operators, "
            "weighted by their current probabilities.",
            budget_ms=run.budget_ms,
        ),
        line_figure(
            "Entropy of the choices", [run.series("search", "entropy", "entropy")], "entropy",
            "Normalised entropy of the option probabilities, averaged over the choices: 1 if all "
            "options are equally probable, 0 if every choice is decided.", from_zero=True,
        ),
    ]  # fmt: skip
    skips = run.series("search", "skips", "skip connections")
    # Many search spaces have no skip connections.
    if any(skips.y):
        meaning = (
            "Expected number of skip connections in the cells. A large number can be a sign that "
            "the search has collapsed."
        )
        charts.append(line_figure("Skip connections", [skips], "number", meaning, from_zero=True))
    return [_latency_range(run), columns(charts), *_pareto_front(run)]


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
    """The candidates that the search exported and measured, with predictions and budget."""
    records = [(record, interval_at(record)) for record in run.events("measurement")]
    complete = [(record, measured) for record, measured in records if measured is not None]
    if not complete:
        return [missing("No candidate has been measured yet.")]
    header = (
        "no.",
        "predicted latency",
        f"measured latency ({CI})",
        "within budget",
        f"{run.metric_in_words} in the search",
    )
    rows = [
        _candidate_row(run, place, record, measured)
        for place, (record, measured) in enumerate(complete, start=1)
    ]
    title = "Predicted and measured latency"
    near = is_near(run.budget_ms, max(measured.high_ms for _, measured in complete))
    budget_ms = run.budget_ms if near else None
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
    chart = figure(title, caption, legend(["predicted", "measured"], *dashed), svg)
    return [columns([chart, first_rows("Candidates", header, rows)])]


def _candidate_row(run: Run, place: int, record: dict[str, Any], measured: Interval) -> list[Html]:
    """The row of a candidate in the table of measured candidates."""
    chosen = run.architecture.get("choices")
    is_chosen = chosen is not None and record.get("choices") == chosen
    exceeded = _exceeded_budgets(run, record)
    kept = None
    if run.budget_ms is not None:
        kept = judge(measured.low_ms, measured.high_ms, run.budget_ms)
    return [
        text(f"{place}, chosen" if is_chosen else place),
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
