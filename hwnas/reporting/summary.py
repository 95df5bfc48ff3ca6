"""The summary at the top of a report: the verdict, the latency and the key figures."""

from __future__ import annotations

from hwnas.budget.gate import judge
from hwnas.reporting.formatting import (
    CONFIDENCE_INTERVAL,
    UNKNOWN,
    count,
    milliseconds,
    percent,
    sentence_case,
)
from hwnas.reporting.html import Html, banner, columns, facts, figure, paragraph, warning
from hwnas.reporting.latency_charts import budget_chart
from hwnas.reporting.run_files import Run, number_at


def summary(run: Run) -> Html:
    """The verdict in words with its reasons, the key figures, and the latency on a line."""
    title = "Verdict: not checked yet" if run.verdict is None else f"Verdict: {run.verdict}"
    failed = [str(gate.get("name")) for gate in run.gates if gate.get("status") == "fail"]
    sentences = [_latency_sentence(run)]
    if run.score is not None:
        score = run.score_in_words(f"{CONFIDENCE_INTERVAL} ")
        sentences.append(f"The {run.metric_in_words} on the test samples is {score}.")
    if failed:
        sentences.append(f"Gates that failed: {', '.join(failed)}.")
    if to_come := _stages_to_come(run):
        sentences.append(f"Stages that have not run yet: {', '.join(to_come)}.")
    key_figures = [
        ("Latency budget", milliseconds(run.budget_ms)),
        ("Predicted latency", milliseconds(run.predicted_ms)),
        ("Measured latency", milliseconds(None if run.measured is None else run.measured.value_ms)),
        (sentence_case(run.metric_in_words), percent(run.score)),
        ("Parameters", count(number_at(run.architecture, "params"))),
        ("Multiply-accumulates", count(number_at(run.architecture, "macs"))),
    ]
    known = [(name, value) for name, value in key_figures if value != UNKNOWN]
    parts = [facts(known), *_budget_figure(run)]
    warnings = [warning(sentence) for sentence in run.warnings]
    return banner(run.verdict, title, paragraph(" ".join(sentences)), *warnings, columns(parts))


def _stages_to_come(run: Run) -> list[str]:
    """The stages whose results, and chapters of the page, do not exist yet."""
    results = {"search": run.architecture, "training": run.metrics, "check": run.check}
    return [stage for stage, found in results.items() if not found]


def _latency_sentence(run: Run) -> str:
    """The measured latency and how it compares with the budget."""
    measured, budget_ms = run.measured, run.budget_ms
    if measured is None:
        return "The latency of the exported model has not been measured yet."
    latency = measured.in_words(f"{CONFIDENCE_INTERVAL} ")
    if run.check:
        start = f"The exported model takes {latency}"
    else:
        start = f"In the measurement during the search, the exported model took {latency}"
    if budget_ms is None:
        return f"{start}; its budget is not known."
    budget = milliseconds(budget_ms)
    status = judge(measured.low_ms, measured.high_ms, budget_ms)
    if status == "pass":
        return f"{start}, which is within its budget of {budget}."
    if status == "fail":
        return f"{start}, which is over its budget of {budget}."
    return f"{start}. This is too close to tell whether it keeps its budget of {budget}."


def _budget_figure(run: Run) -> list[Html]:
    """Predicted and measured latency on a line with the budget.

    Nothing if the latencies are not known, or if the budget is so far from them that one axis could
    not show both.
    """
    budget_ms, measured = run.budget_ms, run.measured
    if budget_ms is None or measured is None or not 0 < measured.high_ms < 1e6:
        return []
    known_ms = max(measured.high_ms, run.predicted_ms or 0.0)
    if not 0.05 < budget_ms / known_ms < 20 or min(measured.low_ms, run.predicted_ms or 0.0) < 0:
        return []
    title = "Latency in ms: predicted (diamond) and measured (dot), compared with the budget"
    caption = "Milliseconds per inference. Diamond: predicted; dot: measured; dashed: budget."
    drawing = budget_chart(title, budget_ms, run.predicted_ms, measured)
    return [figure("Latency and budget", caption, drawing)]
