"""The report of a run: one HTML file that needs neither a network nor a server.

A page is a view of the run's files. What a stage has not written yet, or a file holds in no
readable form, is said to be missing in its place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.gate import judge
from hwnas.errors import InputError
from hwnas.reporting.cells import Cell, draw_cell, read_cells
from hwnas.reporting.charts import RunPoint, runs_chart
from hwnas.reporting.html import (
    Html,
    banner,
    bar,
    count,
    decibels,
    details,
    facts,
    figure,
    figures,
    kibibytes,
    link,
    milliseconds,
    missing,
    number,
    page,
    paragraph,
    percent,
    section,
    status,
    table,
    text,
)
from hwnas.reporting.run_files import Interval, Run, number_at, text_at
from hwnas.reporting.stages import candidates_section, search_section, training_section
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.pareto import knee

GATES: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "budget": ("latency, at most the budget", milliseconds),
    "budget of a device": ("predicted latency, at most the device's budget", milliseconds),
    "memory": ("peak host memory of a session in MB, at most", number),
    "budget_confidence": ("predicted probability of keeping the budget, at least", percent),
    "parity": ("outputs as before the export; their largest difference", number),
    "sqnr": ("signal to error of the outputs, at least", decibels),
    "agreement": ("images with the same class as before the export", percent),
    "accuracy_drop": ("accuracy lost by the export, at most", percent),
    "accuracy": ("accuracy, at least", percent),
}
"""What the gates of a check ask for, and in which unit."""


def render_report(
    folder: RunFolder, space: SearchSpace, operator_latencies_ms: Mapping[str, float]
) -> str:
    """The page of one run.

    Args:
        folder: of the run; of its files only the configuration has to be there.
        space: the run's search space at its deployed sizes.
        operator_latencies_ms: predicted milliseconds of the whole network for each choice of the
            found architecture, and for `fixed`; empty when there is none yet.

    Raises:
        InputError: when the folder is no run's, a file is damaged or of another schema, or the
            architecture does not belong to the space.
    """
    run = Run.read(folder)
    architecture: Architecture | None = None
    cells: list[Cell] = []
    if run.architecture:
        architecture = Architecture.from_json(run.architecture, str(folder.architecture))
        space.validate(architecture)
        cells = read_cells(space, architecture, operator_latencies_ms)
    return page(
        f"Report of {run.name}",
        _banner(run),
        _gates(run),
        _architecture(architecture, cells),
        _operator_latencies(run, architecture, cells, operator_latencies_ms),
        search_section(run),
        candidates_section(run),
        training_section(run),
        section(
            "Configuration and environment",
            details("Configuration", run.config),
            details("Environment", _indented(run.environment)),
            details("Architecture", _indented(run.architecture)),
            details("Check", _indented(run.check)),
        ),
    )


def _banner(run: Run) -> Html:
    title = "Verdict: not checked yet" if run.verdict is None else f"Verdict: {run.verdict}"
    failed = [str(gate.get("name")) for gate in run.gates if gate.get("status") == "fail"]
    sentences = [_latency_sentence(run)]
    if run.accuracy is not None:
        sentences.append(f"The accuracy on the test images is {percent(run.accuracy)}.")
    if failed:
        sentences.append(f"Gates that failed: {', '.join(failed)}.")
    key_figures = [
        ("Budget", milliseconds(run.budget_ms)),
        ("Predicted", milliseconds(run.predicted_ms)),
        ("Measured (95 % interval)", _interval(run.measured)),
        ("Accuracy", percent(run.accuracy)),
        ("Parameters", count(number_at(run.architecture, "params"))),
        ("Multiply-accumulates", count(number_at(run.architecture, "macs"))),
    ]
    return banner(run.verdict, title, paragraph(" ".join(sentences)), facts(key_figures))


def _latency_sentence(run: Run) -> str:
    measured, budget_ms = run.measured, run.budget_ms
    if measured is None:
        return "The latency of the exported model has not been measured yet."
    took = "takes" if run.check else "took, when the search measured it,"
    start = f"The exported model {took} {measured.in_words('95 % interval ')}"
    if budget_ms is None:
        return f"{start}; its budget is not known."
    relation = {
        "pass": ", within its budget of",
        "fail": ", over its budget of",
    }.get(
        judge(measured.low_ms, measured.high_ms, budget_ms),
        "; that is too close to tell whether it keeps its budget of",
    )
    return f"{start}{relation} {milliseconds(budget_ms)}."


def _gates(run: Run) -> Html:
    if not run.check:
        return section("Gates", missing("The exported model has not been checked yet."))
    check = run.check
    error = number_at(check, "parity", "max_abs_error")
    # A ratio to no error at all is infinite, which JSON cannot hold.
    sqnr = "no error" if error == 0 else decibels(number_at(check, "parity", "sqnr_db"))
    known = [
        ("Accuracy before export", percent(number_at(check, "accuracy", "torch"))),
        ("Accuracy after export", percent(number_at(check, "accuracy", "onnx"))),
        ("Images tested", count(number_at(check, "accuracy", "n"))),
        ("Signal to error", sqnr),
        ("Peak memory of a session in MB", number(number_at(check, "memory_mb"))),
        ("File", kibibytes(number_at(check, "model", "size_bytes"))),
        ("ONNX operator set", number(number_at(check, "model", "opset"))),
    ]
    return section(
        "Gates",
        table(("gate", "asks for", "status", "value", "limit"), map(_gate_row, run.gates)),
        facts(known),
        paragraph(_measurement_sentence(run)),
    )


def _gate_row(gate: dict[str, Any]) -> list[Html]:
    """Name, meaning, status, value and limit; a dash for what does not apply."""
    name = str(gate.get("name"))
    # A further device's budget is named by its device.
    known = "budget of a device" if name.startswith("budget: ") else name
    asks, in_words = GATES.get(known, ("", number))
    figures_of_gate = (number_at(gate, key) for key in ("value", "limit"))
    return [
        text(name),
        text(asks),
        status(text_at(gate, "status")),
        *(text("\u2013" if value is None else in_words(value)) for value in figures_of_gate),
    ]


def _measurement_sentence(run: Run) -> str:
    measured = run.check.get("measured")
    statistic = {"p10": "the 10th percentile", "median": "the median"}
    return (
        f"The latency is {statistic.get(text_at(measured, 'statistic') or '', 'a statistic')} of "
        f"the medians of {count(number_at(measured, 'rounds'))} rounds "
        f"({text_at(measured, 'runtime') or 'runtime not known'}; the measurement's status is "
        f"{text_at(measured, 'status') or 'not known'})."
    )


def _architecture(architecture: Architecture | None, cells: Sequence[Cell]) -> Html:
    title = "The architecture"
    if architecture is None:
        return section(title, missing("The search has not found an architecture yet."))
    if not cells:
        rows = [[text(choice), text(option)] for choice, option in architecture]
        return section(title, table(("choice", "option"), rows))
    if cells[0].is_stage:
        legend = (
            "Layers stand from top to bottom, each with its operator and predicted milliseconds; "
            "a line without a box is a layer that is skipped."
        )
    else:
        legend = (
            "States stand from top to bottom. Each line is an operator that was kept, with its "
            "predicted milliseconds over all cells of the network."
        )
    if any(cell.joins_nodes for cell in cells):
        legend += " Dashed: the output joins the channels of all nodes."
    if any(not edge.runs for cell in cells for edge in cell.edges):
        legend += " Dotted: dead ends, which the exported model leaves out."
    drawings = [figure(draw_cell(cell), cell.title, cell.summary) for cell in cells]
    return section(title, paragraph(legend), figures(drawings))


def _operator_latencies(
    run: Run,
    architecture: Architecture | None,
    cells: Sequence[Cell],
    latencies_ms: Mapping[str, float],
) -> Html:
    """Bars for each part, and on the same scale the whole as predicted and as measured."""
    title = "Predicted latency of the operators"
    if architecture is None or not latencies_ms:
        return section(title, missing("There are no predictions of an architecture yet."))
    names = {e.choice: f"{c.title}, {c.route(e)}: {e.operator}" for c in cells for e in c.edges}
    parts = [
        (names.get(choice, f"{choice}: {option}"), latencies_ms.get(choice, 0.0))
        for choice, option in architecture
        if option != "none"
    ]
    parts.append(("Fixed parts: all that runs in every network", latencies_ms.get("fixed", 0.0)))
    parts.sort(key=lambda part: -part[1])
    total_ms = sum(latency_ms for _, latency_ms in parts)
    measured_ms = None if run.measured is None else run.measured.value_ms
    scale_ms = max(total_ms, measured_ms or 0.0) or 1.0
    rows = [
        [text(name), bar(part_ms / scale_ms), text(milliseconds(part_ms, 3))]
        for name, part_ms in parts
    ]
    rows.append([text("Whole network, predicted"), bar(total_ms / scale_ms), _ms(total_ms)])
    if measured_ms is not None:
        whole = text("Whole network, measured")
        rows.append([whole, bar(measured_ms / scale_ms, "measured"), _ms(measured_ms)])
    sentence = "Milliseconds for one inference; an operator counts in all cells it stands in."
    return section(
        title,
        paragraph(sentence),
        paragraph(_audit_sentence(run)),
        table(("part", "", "latency"), rows, "bars"),
    )


def _audit_sentence(run: Run) -> str:
    """How far the table's predictions were tested, and whether counting would do better."""
    audit = run.latency_table.get("audit")
    spearman, error = number_at(audit, "spearman"), number_at(audit, "median_error")
    if spearman is None or error is None:
        return "The table has not been audited: `hwnas table audit` compares it with networks."
    counted = max(number_at(audit, key, "spearman") or -1.0 for key in ("macs", "params"))
    sentence = (
        f"Audited on {count(number_at(audit, 'networks'))} networks: rank correlation "
        f"{number(spearman)}, median error {percent(error)}."
    )
    if counted > spearman:
        sentence += (
            f" Counting operations or parameters orders them better ({number(counted)}): "
            "do not trust this table's order."
        )
    return sentence


def render_overview(folders: Sequence[RunFolder], beside: Path | None = None) -> str:
    """The page over several runs, with links to their reports.

    Args:
        folders: of the runs.
        beside: the folder that the page is for; the first run's parent if None.

    Raises:
        InputError: when there are no folders.
    """
    if not folders:
        raise InputError("no runs to show", expected="folders with a config.toml")
    rows: list[list[Html]] = []
    runs: dict[str, Run] = {}
    base = (beside or folders[0].path.resolve().parent).resolve()
    for place, folder in enumerate(folders, start=1):
        name = folder.path.resolve().name
        linked = folder.report.is_file()
        target = Path(os.path.relpath(folder.report.resolve(), base)).as_posix()
        first = [text(place), link(target, name) if linked else text(name)]
        try:
            run = Run.read(folder)
        except InputError as error:
            # One damaged run must not hide the others.
            rows.append([*first, text(error), *[text("")] * 4])
            continue
        runs[str(place)] = run
        rows.append(
            [
                *first,
                _ms(run.budget_ms),
                _ms(run.predicted_ms),
                text(_interval(run.measured)),
                text(percent(run.accuracy)),
                status(run.verdict or "not checked"),
            ]
        )
    header = ["no.", "run", "budget", "predicted", "measured (95 % interval)", "accuracy"]
    passed = sum(run.verdict == "pass" for run in runs.values())
    return page(
        "Overview of runs",
        paragraph(f"{passed} of {len(folders)} runs passed their check."),
        table([*header, "verdict"], rows),
        section("Accuracy and latency", _accuracy_against_latency(runs)),
    )


def _accuracy_against_latency(runs: Mapping[str, Run]) -> Html:
    points = [
        RunPoint(label, run.measured, run.accuracy, run.budget_ms)
        for label, run in runs.items()
        if run.measured is not None and run.accuracy is not None
    ]
    if not points:
        return missing("No run has been measured and tested yet.")
    title = "Accuracy against measured latency"
    caption = (
        "Accuracy on the test images in percent, milliseconds for one inference. The numbers are "
        "those of the table, the bars 95 % intervals; a dashed line is the budget of the run of "
        "its colour, which keeps it when it stands to the left."
    )
    if len(points) > 2:
        minimised = np.array([[p.measured.value_ms, -p.accuracy] for p in points])
        number = points[knee(minimised)].label
        caption += f" Of the runs that no other beats in both, number {number} is the knee."
    return figure(runs_chart("runs", title, points), title, caption)


def _ms(value_ms: float | None) -> Html:
    return text(milliseconds(value_ms))


def _interval(measured: Interval | None) -> str:
    return milliseconds(None) if measured is None else measured.in_words()


def _indented(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) if document else "not written yet"
