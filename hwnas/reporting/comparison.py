"""The page over several runs: key figures side by side, the front, the searches overlaid."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.reporting.charts import RunPoint, runs_chart
from hwnas.reporting.html import (
    SERIES,
    Html,
    columns,
    count,
    figure,
    link,
    milliseconds,
    missing,
    number,
    page,
    paragraph,
    percent,
    section,
    sentence_case,
    status,
    table,
    text,
)
from hwnas.reporting.run_files import Run, Series, distinct_names, number_at, value_at
from hwnas.reporting.stages import line_figure
from hwnas.runs.run_folder import RunFolder
from hwnas.strategies.pareto import covered_share, knee, pareto_front

MOST_BUDGETS = 6
"""Runs whose budgets are drawn as lines; more would hide the points."""

Labelled = Sequence[tuple[str, Run]]


def render_comparison(folders: Sequence[RunFolder], beside: Path) -> str:
    """The page of two runs or more, of all runs in a folder, or of a family.

    Args:
        folders: of the runs.
        beside: the folder that the page is for; links lead from there.

    Raises:
        InputError: when there are no folders.
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
            # One damaged run must not hide the others.
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
            section("Can they be compared?", *_comparability(runs)),
            section("Score and latency", score_against_latency(runs)),
            section("The searches", *_search_curves(runs)),
        ],
    )


def _scored(run: Run) -> str:
    """The score with its metric; a dash where it is not known."""
    if run.score is None:
        return percent(None)
    return f"{percent(run.score)} {run.metric_in_words}"


def _ms(value_ms: float | None) -> Html:
    return text(milliseconds(value_ms))


COLUMNS: dict[str, Callable[[Run], Html]] = {
    "verdict": lambda run: status(run.verdict or "not checked"),
    "budget": lambda run: _ms(run.budget_ms),
    "predicted": lambda run: _ms(run.predicted_ms),
    "measured (interval)": lambda run: text(
        milliseconds(None) if run.measured is None else run.measured.in_words()
    ),
    "score": lambda run: text(_scored(run)),
    "strategy": lambda run: text(value_at(run.settings, "search", "strategy") or "not known"),
    "search steps": lambda run: text(count(number_at(run.settings, "search", "steps"))),
    "seed": lambda run: text(number(number_at(run.settings, "seed"))),
    "parameters": lambda run: text(count(number_at(run.architecture, "params"))),
    "multiply-accumulates": lambda run: text(count(number_at(run.architecture, "macs"))),
}
"""What the table says of each run."""


def _facts(run: Run) -> dict[str, str]:
    """The keys of `CONSEQUENCES` in words."""
    latency = value_at(run.settings, "latency")
    runtime = latency if isinstance(latency, dict) else {}
    keys = ("runtime", "dtype", "batch", "threads")
    space = run.architecture.get("space_options") or value_at(run.settings, "space")
    name = value_at(run.settings, "space", "name")
    return {
        "data": _words(value_at(run.settings, "data")),
        "device": run.device or "not known",
        "runtime": _words({key: runtime[key] for key in keys if key in runtime}),
        "space": f"{name or 'not known'}: {_words(space)}",
        "evaluator": str(value_at(run.settings, "search", "evaluator") or "not known"),
    }


def _words(settings: Any) -> str:
    if not isinstance(settings, dict) or not settings:
        return "not known"
    return ", ".join(f"{key} {value}" for key, value in sorted(settings.items()))


NEEDED_FOR_A_FRONT = {"data", "device", "runtime"}
CONSEQUENCES = {
    "data": "their scores and losses say nothing about each other",
    "device": "their latencies say nothing about each other",
    "runtime": "their latencies say nothing about each other",
    "space": "losses, entropies and skip connections of their searches are of other supernets",
    "evaluator": "losses of their searches are of other kinds",
}
"""What has to be the same in runs that are compared, and what follows where it is not."""


def _differing(runs: Labelled) -> list[str]:
    facts = [_facts(run) for _, run in runs]
    return [key for key in CONSEQUENCES if len({f[key] for f in facts}) > 1]


def _comparability(runs: Labelled) -> list[Html]:
    """What differs between the runs, and what follows from that."""
    if len(runs) < 2:
        return [missing("There are no two runs to compare.")]
    differing = _differing(runs)
    if not differing:
        return [paragraph("Data, device, runtime and space are the same in all runs.")]
    sentences = [
        Html(f'<p class="warning">The {key} is not the same in all runs: {CONSEQUENCES[key]}.</p>')
        for key in differing
    ]
    facts = [(label, _facts(run)) for label, run in runs]
    rows = [[text(label), *(text(f[key]) for key in differing)] for label, f in facts]
    return [*sentences, table("What differs", ["no.", *differing], rows)]


def score_against_latency(runs: Labelled) -> Html:
    """The runs' points with their numbers, and the front where they can be compared."""
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
        f"{sentence_case(metric)} on the test samples in percent, milliseconds for one inference. "
        "Numbers are those of the table, bars 95 % intervals."
    )
    front: list[int] = []
    if set(_differing(runs)) & NEEDED_FOR_A_FRONT:
        caption += " The runs cannot be compared, so there is no front."
    else:
        minimised = np.array([[p.measured.value_ms, -p.score] for p in points])
        front = pareto_front(minimised).tolist()
        labels = ", ".join(points[i].label for i in front)
        caption += f" On the front, which no other run beats in both: {labels}."
        if len(front) > 2:
            covered = percent(covered_share(minimised))
            caption += f" Its knee is {points[knee(minimised)].label}; it covers {covered} of the "
            caption += "area between the best and the worst figures (hypervolume)."
    budgets = len(points) <= MOST_BUDGETS
    if budgets:
        caption += " A dashed line is the budget of the run of its colour."
    title = f"{sentence_case(metric)} against measured latency"
    header = ("no.", "run", "budget", "measured (95 % interval)", metric)
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


def _search_curves(runs: Labelled) -> list[Html]:
    """The searches' curves over each other, a colour for each run."""
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
        line_figure("Expected latency", _over_budget(shown), "share of the budget", "1 keeps it."),
        line_figure(
            "Entropy of the choices", lines("entropy"), "entropy", "1 is undecided, 0 is decided.",
            from_zero=True,
        ),
    ]  # fmt: skip
    return [*parts, columns(charts)]


def _over_budget(runs: Labelled) -> list[Series]:
    """Expected latencies over the runs' own budgets."""
    found = []
    for label, run in runs:
        series = run.series("search", "latency_ms", f"{label} {run.name}")
        if run.budget_ms:
            values = [value / run.budget_ms for value in series.y]
            found.append(Series(series.label, series.x, values))
    return found
