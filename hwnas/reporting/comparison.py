"""The comparison of several runs on one page: key figures, Pareto front, curves of the searches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.reporting.figures import line_figure
from hwnas.reporting.formatting import (
    CI,
    CONFIDENCE_INTERVAL,
    UNKNOWN,
    count,
    milliseconds,
    number,
    percent,
    sentence_case,
)
from hwnas.reporting.html import (
    Html,
    columns,
    figure,
    link,
    missing,
    page,
    paragraph,
    section,
    status,
    table,
    text,
)
from hwnas.reporting.latency_charts import RunPoint, runs_chart
from hwnas.reporting.run_files import Run, Series, distinct_names, number_at, value_at
from hwnas.reporting.theme import SERIES
from hwnas.runs.run_folder import RunFolder
from hwnas.strategies.pareto import covered_share, knee, pareto_front

MAX_BUDGETS = 6
"""Up to so many runs, their budgets are drawn as lines; more lines would hide the points."""

Labelled = Sequence[tuple[str, Run]]
"""Runs with their numbers on the page."""


def render_comparison(folders: Sequence[RunFolder], beside: Path) -> str:
    """Render the comparison of runs as HTML.

    Args:
        folders: folders of the runs.
        beside: folder that the page will be written to; links to reports are relative to it.

    Raises:
        InputError: when there are no folders, or a folder is listed twice.
    """
    if not folders:
        raise InputError("no runs to show", expected="folders with a config.toml")
    rows: list[list[Html]] = []
    runs: list[tuple[str, Run]] = []
    names = distinct_names(folders)
    for place, (folder, name) in enumerate(zip(folders, names, strict=True), start=1):
        target = Path(os.path.relpath(folder.report.resolve(), beside.resolve())).as_posix()
        first = [text(place), link(target, name) if folder.report.is_file() else text(name)]
        try:
            run = Run.read(folder)
        except InputError as error:
            # One damaged run must not prevent the comparison of the others.
            rows.append([*first, text(error), *[text("")] * (len(COLUMNS) - 1)])
            continue
        runs.append((f"{place}", run))
        rows.append([*first, *(render(run) for render in COLUMNS.values())])
    passed = sum(run.verdict == "pass" for _, run in runs)
    return page(
        "Comparison of runs",
        Html(
            paragraph(f"{passed} of {len(folders)} runs passed their check.")
            + table("Key figures", ["no.", "run", *COLUMNS], rows, "sortable")
        ),
        [
            section("Comparability", *_comparability(runs)),
            section("Score and latency", score_against_latency(runs)),
            section("Progress of the searches", *_search_curves(runs)),
        ],
    )


def _scored(run: Run) -> str:
    """The score and its metric, or `not known`."""
    if run.score is None:
        return percent(None)
    return f"{percent(run.score)} {run.metric_in_words}"


def _ms(value_ms: float | None) -> Html:
    return text(milliseconds(value_ms))


COLUMNS: dict[str, Callable[[Run], Html]] = {
    "verdict": lambda run: status(run.verdict or "not checked"),
    "budget": lambda run: _ms(run.budget_ms),
    "predicted": lambda run: _ms(run.predicted_ms),
    f"measured ({CI})": lambda run: text(
        milliseconds(None) if run.measured is None else run.measured.in_words()
    ),
    "score": lambda run: text(_scored(run)),
    "strategy": lambda run: text(value_at(run.settings, "search", "strategy") or UNKNOWN),
    "search steps": lambda run: text(count(number_at(run.settings, "search", "steps"))),
    "seed": lambda run: text(number(number_at(run.settings, "seed"))),
    "parameters": lambda run: text(count(number_at(run.architecture, "params"))),
    "multiply-accumulates": lambda run: text(count(number_at(run.architecture, "macs"))),
}
"""Columns of the table of runs: header, and the cell of a run."""


def _properties(run: Run) -> dict[str, str]:
    """The properties of a run that decide what can be compared, by the keys of `CONSEQUENCES`."""
    latency = value_at(run.settings, "latency")
    runtime = latency if isinstance(latency, dict) else {}
    keys = ("runtime", "dtype", "batch", "threads")
    space = run.architecture.get("space_options") or value_at(run.settings, "space")
    name = value_at(run.settings, "space", "name")
    return {
        "data": _words(value_at(run.settings, "data")),
        "device": run.device or UNKNOWN,
        "runtime": _words({key: runtime[key] for key in keys if key in runtime}),
        "space": f"{name or UNKNOWN}: {_words(space)}",
        "evaluator": str(value_at(run.settings, "search", "evaluator") or UNKNOWN),
    }


def _words(settings: Any) -> str:
    """A table of settings as a list of keys and values, or `not known`."""
    if not isinstance(settings, dict) or not settings:
        return UNKNOWN
    return ", ".join(f"{key} {value}" for key, value in sorted(settings.items()))


NEEDED_FOR_A_FRONT = {"data", "device", "runtime"}
"""Properties that have to be equal for the runs to have a common Pareto front."""
CONSEQUENCES = {
    "data": "their scores and losses cannot be compared",
    "device": "their latencies cannot be compared",
    "runtime": "their latencies cannot be compared",
    "space": "the losses, entropies and skip connections of their searches cannot be compared",
    "evaluator": "the losses of their searches cannot be compared",
}
"""Properties that should be equal in all runs, and what follows if they are not."""


def _differing(runs: Labelled) -> list[str]:
    """The keys of `CONSEQUENCES` whose values are not the same in all runs."""
    properties = [_properties(run) for _, run in runs]
    return [key for key in CONSEQUENCES if len({p[key] for p in properties}) > 1]


def _comparability(runs: Labelled) -> list[Html]:
    """The properties in which the runs differ, and what cannot be compared for that reason."""
    if len(runs) < 2:
        return [missing("There are fewer than two readable runs, so there is nothing to compare.")]
    differing = _differing(runs)
    if not differing:
        return [
            paragraph("Data, device, runtime, search space and evaluator are the same in all runs.")
        ]
    sentences = [
        Html(f'<p class="warning">The {key} is not the same in all runs: {CONSEQUENCES[key]}.</p>')
        for key in differing
    ]
    rows = []
    for label, run in runs:
        properties = _properties(run)
        rows.append([text(label), *(text(properties[key]) for key in differing)])
    return [*sentences, table("Differences", ["no.", *differing], rows)]


def score_against_latency(runs: Labelled) -> Html:
    """A chart of the runs with their Pareto front, if they can be compared, and a table."""
    shown = [
        (RunPoint(label, run.measured, run.score, run.budget_ms, place), run)
        for place, (label, run) in enumerate(runs)
        if run.measured is not None and run.score is not None
    ]
    if not shown:
        return missing("No run has been measured and tested yet.")
    points = [point for point, _ in shown]
    metrics = {run.metric_in_words for _, run in shown}
    metric = metrics.pop() if len(metrics) == 1 else "score"
    caption = (
        f"{sentence_case(metric)} on the test samples in percent against milliseconds per "
        f"inference. Each point has the run's number; bars show the {CONFIDENCE_INTERVAL}s (CI)."
    )
    front: list[int] = []
    if set(_differing(runs)) & NEEDED_FOR_A_FRONT:
        caption += " The runs cannot be compared, so there is no Pareto front."
    else:
        minimised = np.array([[p.measured.value_ms, -p.score] for p in points])
        front = pareto_front(minimised).tolist()
        caption += _front_sentences([point.label for point in points], minimised, front)
    budgets = len(points) <= MAX_BUDGETS
    if budgets:
        caption += " Dashed lines are the runs' latency budgets, in the colours of the runs."
    title = f"{sentence_case(metric)} against measured latency"
    header = ("no.", "run", "budget", f"measured ({CI})", metric)
    rows = [
        [
            text(p.label),
            text(run.name),
            _ms(p.budget_ms),
            text(p.measured.in_words()),
            text(percent(p.score)),
        ]
        for p, run in shown
    ]
    chart = figure(title, caption, runs_chart(title, points, front, metric, budgets=budgets))
    return columns([chart, table(title, header, rows, "sortable")])


def _front_sentences(labels: Sequence[str], points: np.ndarray, front: Sequence[int]) -> str:
    """The runs on the Pareto front; its knee and hypervolume if it has at least three points.

    Args:
        labels: numbers of the runs.
        points: (n, 2): latency and negative score.
        front: indices of the Pareto-optimal points in the order of their latency.
    """
    sentences = f" Pareto-optimal runs, fastest first: {', '.join(labels[i] for i in front)}."
    if len(front) > 2:
        sentences += (
            f" The knee of the front is run {labels[knee(points)]}; the front dominates "
            f"{percent(covered_share(points))} of the rectangle between the best and the worst "
            "values (hypervolume)."
        )
    return sentences


def _search_curves(runs: Labelled) -> list[Html]:
    """The curves of all searches in the same charts, one colour for each run."""
    searched = [(label, run) for label, run in runs if run.events("search")]
    if not searched:
        return [missing("None of the runs has records of a search.")]
    parts = []
    if len(searched) > SERIES:
        parts.append(missing(f"The first {SERIES} of {len(searched)} searches are drawn."))
    shown = searched[:SERIES]

    def lines(key: str) -> list[Series]:
        return [run.series("search", key, f"{label} {run.name}") for label, run in shown]

    charts = [
        line_figure("Training loss of the search", lines("loss"), "loss", ""),
        line_figure("Validation loss of the search", lines("validation_loss"), "loss", ""),
        line_figure(
            "Expected latency", _over_budget(shown), "latency / budget",
            "Divided by the run's own budget, so that values up to 1 are within it.",
        ),
        line_figure(
            "Entropy of the choices", lines("entropy"), "entropy",
            "1 if all options are equally probable, 0 if every choice is decided.",
            from_zero=True,
        ),
    ]  # fmt: skip
    return [*parts, columns(charts)]


def _over_budget(runs: Labelled) -> list[Series]:
    """Expected latency of each run divided by its budget; runs without a budget are left out."""
    found = []
    for label, run in runs:
        series = run.series("search", "latency_ms", f"{label} {run.name}")
        if run.budget_ms:
            values = [value / run.budget_ms for value in series.y]
            found.append(Series(series.label, series.x, values))
    return found
