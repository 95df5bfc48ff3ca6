"""The report of a run: one HTML file that needs neither a network nor a server.

A page is a view of the run's files, in the order of what somebody asks who has just run a search:
did it work, why trust it, what was found, where does its time go, how was it found, how to repeat
it. What a stage has not written yet, or a file holds in no readable form, is said to be missing in
its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwnas.architecture import Architecture
from hwnas.budget.gate import judge
from hwnas.reporting.cell_drawings import draw_cell
from hwnas.reporting.cells import Cell, read_cells
from hwnas.reporting.charts import budget_chart
from hwnas.reporting.comparison import score_against_latency
from hwnas.reporting.html import (
    Html,
    Section,
    banner,
    columns,
    count,
    decibels,
    details,
    facts,
    figure,
    heading,
    in_words,
    kibibytes,
    link,
    milliseconds,
    missing,
    number,
    page,
    paragraph,
    percent,
    preformatted,
    section,
    sentence_case,
    status,
    table,
    text,
)
from hwnas.reporting.latencies import audit_sentence, latency_section
from hwnas.reporting.run_files import Run, number_at, text_at
from hwnas.reporting.stages import candidates_figures, search_figures, training_section
from hwnas.reporting.trajectories import trajectory_figures
from hwnas.reporting.variants import variants_section
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace

GATES: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "budget": ("latency, at most the budget", milliseconds),
    "budget of a device": ("predicted latency, at most the device's budget", milliseconds),
    "memory": ("peak host memory of a session in MB, at most", number),
    "energy": ("energy of an inference in mJ, at most", number),
    "placement": ("operators that the runtime's own provider runs, at least", number),
    "budget_confidence": ("predicted probability of keeping the budget, at least", percent),
    "parity": ("outputs as {reference}; their largest difference", number),
    "sqnr": ("signal to error of the outputs, at least", decibels),
    "agreement": ("samples with the same class as {reference}", percent),
    "score_drop": ("{metric} lost by the export, at most", percent),
    "score": ("{metric}, at least", percent),
    "shapes": ("shapes that are declared are those that are computed", number),
    "dynamic_batch": ("other batches run where the model declares any; the largest", number),
    "serving_errors": ("requests under load that failed, at most", number),
    "memory_growth": ("memory in MB that load may add, at most", number),
}
"""What the gates of a check ask for, and in which unit."""
REFERENCES = {"": "before the export", "unoptimised": "without the runtime's optimisation"}
"""What outputs are compared with, by what the names of gates state; other runtimes by theirs."""


def render_report(
    folder: RunFolder,
    space: SearchSpace,
    operator_latencies_ms: Mapping[str, float],
    family: Sequence[RunFolder] = (),
) -> str:
    """The page of one run.

    Args:
        folder: of the run; of its files only the configuration has to be there.
        space: the run's search space at its deployed sizes.
        operator_latencies_ms: predicted milliseconds of the whole network for each choice of the
            found architecture, and for `fixed`; empty when there is none yet.
        family: of the same search's further budgets.

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
        [
            _trust(run),
            *_family(run, [Run.read(member) for member in family]),
            _architecture(architecture, cells),
            latency_section(run, architecture, cells, operator_latencies_ms),
            section(
                "How the search went",
                *search_figures(run),
                heading("What the choices became"),
                *trajectory_figures(run, space.choices, architecture),
                heading("Candidates that were measured"),
                *candidates_figures(run),
            ),
            training_section(run),
            *variants_section(run),
            _reproduction(run, folder),
        ],
    )


def _banner(run: Run) -> Html:
    title = "Verdict: not checked yet" if run.verdict is None else f"Verdict: {run.verdict}"
    failed = [str(gate.get("name")) for gate in run.gates if gate.get("status") == "fail"]
    sentences = [_latency_sentence(run)]
    if run.score is not None:
        score = percent(run.score)
        sentences.append(f"The {run.metric_in_words} on the test samples is {score}.")
    if failed:
        sentences.append(f"Gates that failed: {', '.join(failed)}.")
    key_figures = [
        ("Budget", milliseconds(run.budget_ms)),
        ("Predicted", milliseconds(run.predicted_ms)),
        ("Measured", milliseconds(None if run.measured is None else run.measured.value_ms)),
        (sentence_case(run.metric_in_words), percent(run.score)),
        ("Parameters", count(number_at(run.architecture, "params"))),
        ("Multiply-accumulates", count(number_at(run.architecture, "macs"))),
    ]
    parts = [facts(key_figures), *_budget_drawing(run)]
    return banner(run.verdict, title, paragraph(" ".join(sentences)), columns(parts))


def _budget_drawing(run: Run) -> list[Html]:
    """The budget as a line, unless it is so far away that nothing else could be seen."""
    budget_ms, measured = run.budget_ms, run.measured
    if budget_ms is None or measured is None or not 0 < measured.high_ms < 1e6:
        return []
    known_ms = max(measured.high_ms, run.predicted_ms or 0.0)
    if not 0.05 < budget_ms / known_ms < 20 or min(measured.low_ms, run.predicted_ms or 0.0) < 0:
        return []
    title = "Latency in ms: predicted (diamond) and measured (dot), against the budget"
    caption = "Milliseconds for one inference; the diamond is the prediction, the dot was measured."
    drawing = budget_chart(title, budget_ms, run.predicted_ms, measured)
    return [figure("Latency and budget", caption, drawing)]


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


def _trust(run: Run) -> Section:
    """Gates, parity, score before and after, prediction against measurement."""
    title = "Why to trust it"
    if not run.check:
        return section(title, missing("The exported model has not been checked yet."))
    check, metric = run.check, run.metric
    title_of_score = sentence_case(run.metric_in_words)
    error = number_at(check, "parity", "max_abs_error")
    # A ratio to no error at all is infinite, which JSON cannot hold.
    sqnr = "no error" if error == 0 else decibels(number_at(check, "parity", "sqnr_db"))
    known = [
        (f"{title_of_score} before export", percent(number_at(check, metric, "torch"))),
        (f"{title_of_score} after export", percent(number_at(check, metric, "onnx"))),
        ("Samples tested", count(number_at(check, metric, "n"))),
        ("Signal to error", sqnr),
        ("Peak memory of a session in MB", number(number_at(check, "memory_mb"))),
        ("Energy of an inference in mJ", number(number_at(check, "energy", "mj"))),
        ("File", kibibytes(number_at(check, "model", "size_bytes"))),
        ("ONNX operator set", number(number_at(check, "model", "opset"))),
    ]
    header = ("gate", "status", "value", "limit", "asks for")
    return section(
        title,
        table("Gates", header, [_gate_row(gate, run.metric) for gate in run.gates]),
        facts(known),
        paragraph(_prediction_sentence(run) + audit_sentence(run)),
        paragraph(_measurement_sentence(run)),
    )


def _prediction_sentence(run: Run) -> str:
    measured, predicted_ms = run.measured, run.predicted_ms
    if measured is None or predicted_ms is None or measured.value_ms <= 0:
        return ""
    off = percent(abs(measured.value_ms / predicted_ms - 1)) if predicted_ms > 0 else "not known"
    side = "more" if measured.value_ms > predicted_ms else "less"
    return f"The model takes {off} {side} than its latency table predicts. "


def _gate_row(gate: dict[str, Any], metric: str) -> list[Html]:
    """Name, status, value, limit and meaning; a dash for what does not apply."""
    name = str(gate.get("name"))
    # A further device's budget is named by its device, a further reference's parity by that,
    # the score by its metric.
    kind, _, more = name.partition(": ")
    known = "budget of a device" if kind == "budget" and more else kind
    known = {metric: "score", f"{metric}_drop": "score_drop"}.get(known, known)
    asks, shown = GATES.get(known, ("", number))
    value, limit = (number_at(gate, key) for key in ("value", "limit"))
    if known == "score" and limit == 0:
        asks, limit = "{metric}; no minimum was asked for", None
    return [
        text(name),
        status(text_at(gate, "status")),
        *(text("\u2013" if v is None else shown(v)) for v in (value, limit)),
        text(asks.format(metric=in_words(metric), reference=REFERENCES.get(more, f"by {more}"))),
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


def _family(run: Run, members: Sequence[Run]) -> list[Section]:
    """The front over the budgets of one search."""
    if not members:
        return []
    labelled = [(str(place), one) for place, one in enumerate((run, *members), start=1)]
    sentence = "One search answered several budgets; each architecture was trained and checked."
    more = Html(f"<p>{link('front.html', 'All of them side by side')}</p>")
    return [section("The family", paragraph(sentence), score_against_latency(labelled), more)]


def _architecture(architecture: Architecture | None, cells: Sequence[Cell]) -> Section:
    title = "The architecture"
    if architecture is None:
        return section(title, missing("The search has not found an architecture yet."))
    header = ("choice", "option")
    rows = [[text(choice), text(option)] for choice, option in architecture]
    if not cells:
        return section(title, table(title, header, rows))
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
    joined = next((cell for cell in cells if cell.joins_nodes), None)
    if joined is not None:
        legend += f" Dashed: {joined.output}."
    if any(not edge.runs for cell in cells for edge in cell.edges):
        legend += " Dotted: dead ends, which the exported model leaves out."
    drawings = [figure(cell.title, cell.summary, draw_cell(cell)) for cell in cells]
    as_table = details("The choices as a table", table(title, header, rows, "sortable"))
    return section(title, paragraph(legend), columns(drawings), as_table)


def _reproduction(run: Run, folder: RunFolder) -> Section:
    """What it ran on, and the command that does it again."""
    config, measured = folder.config.name, folder.latency_table.name
    packages = run.environment.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    known = [
        ("Processor", run.device or "not known"),
        ("Platform", text_at(run.environment, "platform") or "not known"),
        ("Python", text_at(run.environment, "python") or "not known"),
        *((str(name), str(version)) for name, version in versions.items()),
        ("Seed", number(number_at(run.settings, "seed"))),
    ]
    return section(
        "How to repeat it",
        paragraph(
            "In the run's folder; AGAIN is a new one. On the same machine the search goes the same "
            "way, but latencies are measured anew, and another candidate may be chosen by them."
        ),
        preformatted(f"hwnas run {config} --table {measured} --out AGAIN"),
        facts(known),
        details("Configuration", preformatted(run.config)),
        details("Environment", preformatted(_indented(run.environment))),
        details("Architecture", preformatted(_indented(run.architecture))),
        details("Check", preformatted(_indented(run.check))),
    )


def _indented(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) if document else "not written yet"
