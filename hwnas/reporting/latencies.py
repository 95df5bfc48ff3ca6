"""The section of a report on latency by part: predictions of the table against the profiler."""

from __future__ import annotations

from collections.abc import Mapping

from hwnas.architecture import Architecture
from hwnas.reporting.formatting import count, milliseconds, number, percent
from hwnas.reporting.html import (
    Html,
    Section,
    bar,
    explained,
    heading,
    paragraph,
    section,
    table,
    text,
)
from hwnas.reporting.run_files import Run, number_at, text_at, value_at

TITLE = "Where the time goes"
PARTS = {
    "fixed": "Fixed parts that all networks of the search space share",
    "layout": "Memory layout conversions inserted by the runtime",
    "uncertain": "Operators that cannot be assigned to a part",
}
"""Parts that do not belong to a choice; the last two have no prediction of their own."""
PROFILE = (
    "Each operator is counted in all cells that contain it. Profiled shares are measured by ONNX "
    "Runtime's profiler. Profiling makes small networks several times slower, so its shares can be "
    "compared with the predictions, but its times cannot. Nodes are assigned to choices by their "
    "names in the exported graph; a fused node belongs to the choice of its convolution."
)
"""How the profiled shares come about."""


def latency_section(
    run: Run,
    architecture: Architecture | None,
    names: Mapping[str, str],
    latencies_ms: Mapping[str, float],
) -> list[Section]:
    """A table of the parts with their predicted latency, and their predicted and profiled shares.

    Nothing if there is no architecture, or no prediction of its latency.

    Args:
        run: the run.
        architecture: the architecture that the search found, if there is one yet.
        names: readable names of the choices.
        latencies_ms: predicted latency of each choice and of `fixed`, summed over the network.
    """
    if architecture is None or not latencies_ms:
        return []
    measured = measured_shares(run) if text_at(run.operator_shares, "by") == "choice" else {}
    known = {
        choice: f"{names[choice]}: {option}" for choice, option in architecture if option != "none"
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
    header = ["part", "", "predicted share", *profiled, "predicted latency"]
    return [
        section(
            TITLE,
            paragraph(_totals_sentence(run, total_ms)),
            paragraph(_shares_sentence(run, predicted, measured)),
            *([_bars_legend()] if measured else []),
            table(TITLE, header, rows, "bars stacked sortable"),
            *_by_type(run),
            *([explained(PROFILE)] if measured else []),
        )
    ]


def measured_shares(run: Run) -> dict[str, float]:
    """The profiler's shares of the time, 0 to 1, by part; shares out of this range are skipped."""
    shares = value_at(run.operator_shares, "shares")
    if not isinstance(shares, dict):
        return {}
    known = {part: number_at(shares, part) for part in shares}
    return {part: share for part, share in known.items() if share is not None and 0 <= share <= 1}


def _totals_sentence(run: Run, total_ms: float) -> str:
    measured = "" if run.measured is None else f"; measured: {run.measured.in_words()}"
    return f"The whole network is predicted to take {milliseconds(total_ms)}{measured}."


def _shares_sentence(
    run: Run, predicted: Mapping[str, float], measured: Mapping[str, float]
) -> str:
    if not run.operator_shares:
        return "The exported model was not profiled; the check does this on onnxruntime-cpu."
    if not measured:
        return "The profiler's shares are known by operator type only, not by choice (see below)."
    moved = sum(abs(predicted.get(p, 0.0) - measured.get(p, 0.0)) for p in {*predicted, *measured})
    return f"{percent(moved / 2)} of the time is spent in other parts than predicted."


def _bars_legend() -> Html:
    return Html(
        '<ul class="legend"><li class="s0">predicted share</li>'
        '<li class="s1">profiled share</li></ul>'
    )


def _by_type(run: Run) -> list[Html]:
    """A table of the profiler's shares by operator type, if they are not known by choice."""
    shares = measured_shares(run)
    if text_at(run.operator_shares, "by") != "operator type" or not shares:
        return []
    largest = max(shares.values()) or 1.0
    rows = [
        [text(name), bar(share / largest, "measured"), text(percent(share))]
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    title = "Profiled shares by operator type"
    return [heading(title), table(title, ("type", "", "share"), rows, "bars stacked sortable")]


def audit_sentence(run: Run) -> str:
    """The result of the latency table's audit, and whether counting operations ranks better."""
    audit = run.latency_table.get("audit")
    spearman, error = number_at(audit, "spearman"), number_at(audit, "median_error")
    if spearman is None or error is None:
        return (
            "The latency table has not been audited: `hwnas table audit` compares its predictions "
            "with the measured latencies of whole networks."
        )
    counted = max(number_at(audit, key, "spearman") or -1.0 for key in ("macs", "params"))
    sentence = (
        f"The audit of the latency table on {count(number_at(audit, 'networks'))} measured "
        f"networks gave a rank correlation of {number(spearman)} (Spearman) and a median error of "
        f"{percent(error)}."
    )
    if counted > spearman:
        sentence += (
            f" Counting operations or parameters ranks these networks better ({number(counted)}): "
            "do not trust this table to rank networks."
        )
    return sentence
