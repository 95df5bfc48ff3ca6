"""The parts of a report on how a run went: search, candidates, training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.budget.gate import judge
from hwnas.reporting.charts import MAX_POINTS, candidates_chart, group_size, is_near, line_chart
from hwnas.reporting.html import (
    Html,
    Section,
    columns,
    count,
    details,
    facts,
    figure,
    in_words,
    legend,
    milliseconds,
    missing,
    number,
    paragraph,
    percent,
    section,
    sentence_case,
    status,
    table,
    text,
)
from hwnas.reporting.run_files import Run, Series, interval_at, number_at, objects_at
from hwnas.strategies.pareto import covered_share, knee, pareto_front

MOST_ROWS = 40
"""Rows of a table: all of 1,000 classes would help nobody."""
MOST_VALUES = 20
"""Rows of a table that stands for a chart."""


def search_figures(run: Run) -> list[Html]:
    """How loss, expected latency, entropy and skip connections went."""
    if not run.events("search"):
        return [missing("The search has not run yet.")]
    losses = (
        run.series("search", "loss", "training"),
        run.series("search", "validation_loss", "validation"),
    )
    charts = [
        line_figure(
            "Loss of the search", losses, "loss",
            "Of a supernet: cross-entropy; validation begins with the steps of the architecture. "
            "Elsewhere what the evaluator said of each architecture.",
        ),
        line_figure(
            "Expected latency", [run.series("search", "latency_ms", "expected")], "latency, ms",
            "Milliseconds for one inference, over the operators as the search weighs them.",
            budget_ms=run.budget_ms,
        ),
        line_figure(
            "Entropy of the choices", [run.series("search", "entropy", "entropy")], "entropy",
            "Mean over the choices, without unit: 1 is undecided, 0 is decided.", from_zero=True,
        ),
    ]  # fmt: skip
    skips = run.series("search", "skips", "skips")
    # Many spaces have none.
    if any(skips.y):
        meaning = "Expected number in the cells; many of them can be the sign of a collapse."
        charts.append(line_figure("Skip connections", [skips], "number", meaning, from_zero=True))
    return [_reachable(run), columns(charts), *_evaluated_front(run)]


def _evaluated_front(run: Run) -> list[Html]:
    """Of architectures that were judged one by one: those that none beats in loss and latency."""
    judged = [
        (str(record["architecture"]), [latency_ms, loss])
        for record in run.events("search")
        if "architecture" in record
        and (latency_ms := number_at(record, "latency_ms")) is not None
        and (loss := number_at(record, "loss")) is not None
    ]
    if not judged:
        return []
    distinct = dict(judged)
    names, points = list(distinct), np.array(list(distinct.values()))
    front, at_knee = pareto_front(points), knee(points)
    sentence = (
        f"{len(front)} of {len(names)} architectures that were judged are beaten by none in both "
        f"loss and predicted latency; they cover {percent(covered_share(points))} of the area "
        "between the best and the worst figures (hypervolume)."
    )
    rows = [
        [
            text(milliseconds(points[i][0])),
            text(number(points[i][1])),
            text("knee" if i == at_knee else ""),
            text(names[i]),
        ]
        for i in front[:MOST_ROWS]
    ]
    header = ["predicted latency", "loss", "", "architecture"]
    return [paragraph(sentence), details("The front", table("The front", header, rows))]


def _reachable(run: Run) -> Html:
    """What the space offers on the device, for judging the budget."""
    events = run.events("budget")
    if not events:
        return missing("The budget has not been set yet.")
    fastest, slowest = (
        milliseconds(number_at(events[-1], key)) for key in ("fastest_ms", "slowest_ms")
    )
    return paragraph(
        f"Networks of the space are predicted to take from {fastest} to {slowest}; "
        f"the budget is {milliseconds(run.budget_ms)}."
    )


def line_figure(
    title: str,
    series: Sequence[Series],
    y_label: str,
    caption: str,
    *,
    budget_ms: float | None = None,
    from_zero: bool = False,
) -> Html:
    """A chart of lines over steps with its legend and its values as a table."""
    shown = [line for line in series if line.x]
    if not shown:
        return missing(f"{title}: the run has no records of it.")
    records = max(len(line.x) for line in shown)
    if records > MAX_POINTS:
        caption += f" Each point is the mean of {group_size(records)} records."
    if budget_ms is not None and not is_near(budget_ms, max(max(line.y) for line in shown)):
        caption += f" The budget, {milliseconds(budget_ms)}, is far from here."
        budget_ms = None
    chart = line_chart(title, shown, y_label=y_label, budget_ms=budget_ms, from_zero=from_zero)
    dashed = [] if budget_ms is None else [("dashed", "budget")]
    labels = [line.label for line in shown]
    key = [legend(labels, *dashed)] if len(labels) + len(dashed) > 1 else []
    return figure(title, caption, *key, chart, _values(title, shown))


def _values(title: str, series: Sequence[Series]) -> Html:
    """The lines' values at some of their steps, folded away."""
    known = [dict(zip(line.x, line.y, strict=True)) for line in series]
    steps = sorted({step for line in series for step in line.x})
    places = np.unique(np.linspace(0, len(steps) - 1, MOST_VALUES).round().astype(int))
    rows = [
        [
            text(number(steps[place])),
            *(text(number(values[steps[place]]) if steps[place] in values else "\u2013")
              for values in known),
        ]
        for place in places
    ]  # fmt: skip
    header = ["step", *(line.label for line in series)]
    return details("Values as a table", table(title, header, rows))


def _exceeded(run: Run, record: dict[str, Any]) -> str:
    """What a measured candidate takes too much of, besides time; empty where it does not."""
    budgets = run.settings.get("budget")
    exceeded = []
    for key, word in (("memory_mb", "memory"), ("energy_mj", "energy")):
        found = number_at(record, key)
        most = number_at(budgets, key) if isinstance(budgets, dict) else None
        if found is not None and most is not None and found > most:
            exceeded.append(word)
    return ", ".join(exceeded)


def candidates_figures(run: Run) -> list[Html]:
    """What was measured in the search, against its prediction and the budget."""
    records = [(record, interval_at(record)) for record in run.events("measurement")]
    complete = [(record, measured) for record, measured in records if measured is not None]
    if not complete:
        return [missing("No candidate has been measured yet.")]
    chosen = run.architecture.get("choices")
    rows = []
    for place, (record, measured) in enumerate(complete, start=1):
        kept = None
        if run.budget_ms is not None:
            kept = judge(measured.low_ms, measured.high_ms, run.budget_ms)
        exceeded = _exceeded(run, record)
        is_chosen = chosen is not None and record.get("choices") == chosen
        rows.append(
            [
                text(f"{place}, chosen" if is_chosen else place),
                text(milliseconds(number_at(record, "predicted_ms"))),
                text(measured.in_words()),
                Html(f"{status('fail')} {text(exceeded)}") if exceeded else status(kept),
                text(percent(number_at(record, "supernet_accuracy"))),
            ]
        )
    header = (
        "no.",
        "predicted",
        "measured (95 % interval)",
        "budget",
        f"ranked by {run.metric_in_words}",
    )
    title = "Predicted and measured latency"
    near = is_near(run.budget_ms, max(measured.high_ms for _, measured in complete))
    budget_ms = run.budget_ms if near else None
    svg = candidates_chart(
        title,
        [number_at(record, "predicted_ms") for record, _ in complete],
        [measured for _, measured in complete],
        budget_ms,
    )
    caption = "Milliseconds for one inference of each exported candidate; bars are 95 % intervals."
    dashed = [] if budget_ms is None else [("dashed", "budget")]
    chart = figure(title, caption, legend(["predicted", "measured"], *dashed), svg)
    return [columns([chart, _first_rows("Candidates", header, rows)])]


def training_section(run: Run) -> Section:
    """The loss of the architecture's training, and its metrics on the test samples."""
    title = "Training of the architecture"
    if not run.events("train") and not run.metrics:
        return section(title, missing("The architecture has not been trained yet."))
    chart = line_figure(
        "Training loss", [run.series("train", "loss", "training")], "loss",
        "The task's loss, with label smoothing and auxiliary head where they are configured.",
    )  # fmt: skip
    if not run.metrics:
        return section(title, chart, missing("The trained network has not been tested yet."))
    metrics = run.metrics
    known = [
        *_metric_facts(run),
        ("Epochs", count(number_at(metrics, "epochs"))),
        ("Time", f"{number(number_at(metrics, 'seconds'), 3)} s"),
    ]
    return section(title, facts(known), columns([chart, *_by_class(metrics)]))


SHARES = ("f1", "iou", "average_precision", "precision", "recall")
"""Metrics of a class that are shares of 1; by the first of them classes are ordered."""
SETTINGS_OF_TRAINING = ("schema", "metric", "epochs", "seconds")


def _metric_facts(run: Run) -> list[tuple[str, str]]:
    """All metrics of the test samples, the score first; means over classes are called so."""
    metrics, by_class = run.metrics, objects_at(run.metrics, "per_class")
    rest = [key for key in metrics if key not in (run.metric, "per_class", *SETTINGS_OF_TRAINING)]
    known = []
    for key in (run.metric, *rest):
        is_mean = bool(by_class) and key in by_class[0]
        name = f"Mean {in_words(key)}" if is_mean else sentence_case(in_words(key))
        value = number_at(metrics, key)
        is_share = key == run.metric or key in SHARES or key.endswith("accuracy")
        known.append((name, percent(value) if is_share else number(value)))
    return known


def _by_class(metrics: dict[str, Any]) -> list[Html]:
    """The metrics of each class, the weakest first; nothing where the task has no classes."""
    classes = objects_at(metrics, "per_class")
    if not classes:
        return []
    shares = [key for key in classes[0] if key in SHARES]
    first = next((key for key in SHARES if key in shares), "n")
    rows = [
        [
            text(record.get("class")),
            *(text(percent(number_at(record, key))) for key in shares),
            text(count(number_at(record, "n"))),
        ]
        for record in sorted(classes, key=lambda c: number_at(c, first) or 0.0)
    ]
    header = ("class, weakest first", *map(in_words, shares), "n")
    return [_first_rows("Metrics by class", header, rows)]


def _first_rows(name: str, header: Sequence[str], rows: Sequence[Sequence[Html]]) -> Html:
    """A table that says what it leaves out."""
    shown = table(name, header, rows[:MOST_ROWS], "sortable")
    if len(rows) <= MOST_ROWS:
        return Html(f"<div>{shown}</div>")
    return Html(f"<div>{shown}{missing(f'{MOST_ROWS} of {len(rows)} rows are shown.')}</div>")
