"""The parts of a report on how a run went: search, candidates, training."""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.budget.gate import judge
from hwnas.reporting.charts import MAX_POINTS, candidates_chart, group_size, line_chart
from hwnas.reporting.html import (
    Html,
    count,
    facts,
    figure,
    figures,
    milliseconds,
    missing,
    number,
    paragraph,
    percent,
    section,
    status,
    table,
    text,
)
from hwnas.reporting.run_files import Run, Series, interval_at, number_at, objects_at

MOST_ROWS = 40
"""Rows of a table: all of 1,000 classes would help nobody."""


def search_section(run: Run) -> Html:
    """How loss, expected latency, entropy and skip connections went."""
    title = "The course of the search"
    if not run.events("search"):
        return section(title, missing("The search has not run yet."))
    losses = (
        run.series("search", "loss", "training"),
        run.series("search", "validation_loss", "validation"),
    )
    latency = run.series("search", "latency_ms", "expected")
    entropy = run.series("search", "entropy", "entropy")
    skips = run.series("search", "skips", "skips")
    charts = [
        _line_figure(
            "search-loss", "Loss of the supernet", losses, "cross-entropy",
            "Cross-entropy; validation begins with the steps of the architecture.",
        ),
        _line_figure(
            "search-latency", "Expected latency", [latency], "latency, ms",
            "Milliseconds for one inference, over the operators as the search weighs them.",
            budget_ms=run.budget_ms,
        ),
        _line_figure(
            "search-entropy", "Entropy of the choices", [entropy], "entropy",
            "Mean over the choices, without unit: 1 is undecided, 0 is decided.", from_zero=True,
        ),
        _line_figure(
            "search-skips", "Skip connections", [skips], "number",
            "Expected number in the cells; many of them can be the sign of a collapse.",
            from_zero=True,
        ),
    ]  # fmt: skip
    return section(title, _reachable(run), figures(charts))


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


def _line_figure(
    name: str,
    title: str,
    series: Sequence[Series],
    y_label: str,
    caption: str,
    *,
    budget_ms: float | None = None,
    from_zero: bool = False,
) -> Html:
    shown = [line for line in series if line.x]
    if not shown:
        return missing(f"{title}: the run has no records of it.")
    records = max(len(line.x) for line in shown)
    if records > MAX_POINTS:
        caption += f" Each point is the mean of {group_size(records)} records."
    svg = line_chart(name, title, shown, y_label=y_label, budget_ms=budget_ms, from_zero=from_zero)
    return figure(svg, title, caption)


def candidates_section(run: Run) -> Html:
    """What was measured in the search, against its prediction and the budget."""
    title = "Candidates that were measured"
    records = [(record, interval_at(record)) for record in run.events("measurement")]
    complete = [(record, measured) for record, measured in records if measured is not None]
    if not complete:
        return section(title, missing("No candidate has been measured yet."))
    chosen = run.architecture.get("choices")
    rows = []
    for place, (record, measured) in enumerate(complete, start=1):
        kept = None
        if run.budget_ms is not None:
            kept = judge(measured.low_ms, measured.high_ms, run.budget_ms)
        is_chosen = chosen is not None and record.get("choices") == chosen
        rows.append(
            [
                text(f"{place}, chosen" if is_chosen else place),
                text(milliseconds(number_at(record, "predicted_ms"))),
                text(measured.in_words()),
                status(kept),
                text(percent(number_at(record, "supernet_accuracy"))),
            ]
        )
    header = ("no.", "predicted", "measured (95 % interval)", "budget", "supernet accuracy")
    chart_title = "Predicted and measured latency"
    svg = candidates_chart(
        "candidates",
        chart_title,
        [number_at(record, "predicted_ms") for record, _ in complete],
        [measured for _, measured in complete],
        run.budget_ms,
    )
    caption = "Milliseconds for one inference of each exported candidate; bars are 95 % intervals."
    return section(title, _first_rows(header, rows), figure(svg, chart_title, caption))


def training_section(run: Run) -> Html:
    """The loss of the architecture's training, and its metrics on the test images."""
    title = "Training of the architecture"
    if not run.events("train") and not run.metrics:
        return section(title, missing("The architecture has not been trained yet."))
    chart = _line_figure(
        "train-loss", "Training loss", [run.series("train", "loss", "training")], "loss",
        "Cross-entropy, with label smoothing and auxiliary head where they are configured.",
    )  # fmt: skip
    if not run.metrics:
        return section(title, chart, missing("The trained network has not been tested yet."))
    metrics = run.metrics
    means = [(f"Mean {key}", percent(number_at(metrics, key))) for key in ("precision", "recall")]
    known = [
        ("Accuracy on test images", percent(number_at(metrics, "accuracy"))),
        *means,
        ("Mean F1", percent(number_at(metrics, "f1"))),
        ("Epochs", count(number_at(metrics, "epochs"))),
        ("Time", f"{number(number_at(metrics, 'seconds'), 3)} s"),
    ]
    classes = sorted(objects_at(metrics, "per_class"), key=lambda c: number_at(c, "f1") or 0.0)
    rows = [
        [
            text(record.get("class")),
            *(text(percent(number_at(record, key))) for key in ("precision", "recall", "f1")),
            text(count(number_at(record, "n"))),
        ]
        for record in classes
    ]
    by_class = _first_rows(("class, weakest first", "precision", "recall", "F1", "images"), rows)
    return section(title, facts(known), figures([chart, by_class]))


def _first_rows(header: Sequence[str], rows: Sequence[Sequence[Html]]) -> Html:
    """A table that says what it leaves out."""
    shown = table(header, rows[:MOST_ROWS])
    if len(rows) <= MOST_ROWS:
        return Html(f"<div>{shown}</div>")
    return Html(f"<div>{shown}{missing(f'{MOST_ROWS} of {len(rows)} rows are shown.')}</div>")
