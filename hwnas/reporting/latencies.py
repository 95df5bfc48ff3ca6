"""The part of a report on where the time goes: the table's predictions against the profiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwnas.architecture import Architecture
from hwnas.reporting.cells import Cell
from hwnas.reporting.html import (
    Html,
    Section,
    bar,
    count,
    heading,
    milliseconds,
    missing,
    number,
    paragraph,
    percent,
    section,
    table,
    text,
)
from hwnas.reporting.run_files import Run, number_at, text_at, value_at

TITLE = "Where the time goes"
PARTS = {
    "fixed": "Fixed parts: all that runs in every network",
    "layout": "Changes of memory layout that the runtime inserts",
    "uncertain": "What no part is known of",
}
"""What is no choice; the last two have no prediction of their own."""


def latency_section(
    run: Run,
    architecture: Architecture | None,
    cells: Sequence[Cell],
    latencies_ms: Mapping[str, float],
) -> Section:
    """Predicted milliseconds of each part, and its share of the time as predicted and profiled."""
    if architecture is None or not latencies_ms:
        return section(TITLE, missing("There are no predictions of an architecture yet."))
    measured = measured_shares(run) if text_at(run.operator_shares, "by") == "choice" else {}
    names = {e.choice: f"{c.title}, {c.route(e)}: {e.operator}" for c in cells for e in c.edges}
    known = {
        choice: names.get(choice, f"{choice}: {option}")
        for choice, option in architecture
        if option != "none"
    }
    known |= {part: words for part, words in PARTS.items() if part == "fixed" or part in measured}
    total_ms = sum(latencies_ms.get(part, 0.0) for part in known)
    predicted = {part: latencies_ms.get(part, 0.0) / (total_ms or 1.0) for part in known}
    largest = max([*predicted.values(), *measured.values()], default=1.0) or 1.0
    rows = []
    for part in sorted(known, key=lambda p: -max(predicted[p], measured.get(p, 0.0))):
        bars = bar(predicted[part] / largest)
        if measured:
            bars = Html(bars + bar(measured.get(part, 0.0) / largest, "measured"))
        row = [text(known[part]), bars, text(percent(predicted[part]))]
        if measured:
            row.append(text(percent(measured.get(part, 0.0))))
        rows.append([*row, text(milliseconds(latencies_ms.get(part, 0.0), 3))])
    profiled = ["profiled share"] if measured else []
    header = ["part", "", "predicted share", *profiled, "predicted"]
    return section(
        TITLE,
        paragraph(_totals_sentence(run, total_ms)),
        paragraph(_shares_sentence(run, predicted, measured)),
        *([_bars_legend()] if measured else []),
        table(TITLE, header, rows, "bars sortable"),
        *_by_type(run),
    )


def measured_shares(run: Run) -> dict[str, float]:
    """The profiler's shares of the time, by part."""
    shares = value_at(run.operator_shares, "shares")
    if not isinstance(shares, dict):
        return {}
    known = {part: number_at(shares, part) for part in shares}
    return {part: share for part, share in known.items() if share is not None and 0 <= share <= 1}


def _totals_sentence(run: Run, total_ms: float) -> str:
    measured = "" if run.measured is None else f"; measured: {run.measured.in_words()}"
    return (
        f"The whole network is predicted to take {milliseconds(total_ms)}{measured}. An operator "
        "counts in all cells it stands in."
    )


def _shares_sentence(
    run: Run, predicted: Mapping[str, float], measured: Mapping[str, float]
) -> str:
    if not run.operator_shares:
        return "The exported model was not profiled: that is done by the check, on onnxruntime-cpu."
    if not measured:
        return "The profiler's shares are known by operator type only, not by choice; see below."
    moved = sum(abs(predicted.get(p, 0.0) - measured.get(p, 0.0)) for p in {*predicted, *measured})
    return (
        "Profiled shares are those of ONNX Runtime's profiler, which slows small networks down "
        "several times: its times are not comparable, its shares are. Nodes are traced to choices "
        "by their names in the exported graph; what the runtime fused counts where its "
        f"convolution stands. {percent(moved / 2)} of the time is in other parts than predicted."
    )


def _bars_legend() -> Html:
    return Html(
        '<ul class="legend"><li class="s0">predicted share</li>'
        '<li class="s1">profiled share</li></ul>'
    )


def _by_type(run: Run) -> list[Html]:
    """The profiler's shares by operator type, where choices are not known."""
    shares = measured_shares(run)
    if text_at(run.operator_shares, "by") != "operator type" or not shares:
        return []
    largest = max(shares.values()) or 1.0
    rows = [
        [text(name), bar(share / largest, "measured"), text(percent(share))]
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    title = "Profiled shares by operator type"
    return [heading(title), table(title, ("type", "", "share"), rows, "bars sortable")]


def audit_sentence(run: Run) -> str:
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
