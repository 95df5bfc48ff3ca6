"""The section of a report on variants of the exported model in other number formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwnas.reporting.formatting import (
    CI,
    DASH,
    decibels,
    kibibytes,
    number,
    percent,
)
from hwnas.reporting.html import (
    Html,
    Section,
    missing,
    paragraph,
    section,
    status,
    table,
    text,
)
from hwnas.reporting.run_files import Run, interval_at, number_at, objects_at, text_at, value_at

TITLE = "Other number formats"


def variants_section(run: Run) -> list[Section]:
    """A table of the exported, checked and measured variants; nothing if there are none."""
    made = value_at(run.variants, "variants")
    if not isinstance(made, dict):
        return []
    entries = {name: entry for name, entry in made.items() if isinstance(entry, dict)}
    score = run.metric_in_words
    header = (
        "variant", "verdict", f"latency ({CI})", "latency relative to fp32",
        "size", score, f"{score} lost", "SQNR of the outputs",
    )  # fmt: skip
    rows = [_row(name, entry, run.metric) for name, entry in entries.items()]
    notes = [missing(note) for name, entry in entries.items() if (note := _note(name, entry))]
    fastest = text_at(run.variants, "fastest")
    named = (
        f"The fastest variant that passes its check is {fastest}."
        if fastest
        else "No variant passes its check."
    )
    sentence = (
        f"{named} All variants were measured alternately in one process, so their latency ratios "
        f"compare the same rounds. The {score} is that on the test samples. SQNR is the "
        f"signal-to-quantisation-noise ratio, CI the confidence interval."
    )
    return [section(TITLE, paragraph(sentence), table(TITLE, header, rows, "stacked"), *notes)]


def _row(name: str, entry: dict[str, Any], metric: str) -> list[Html]:
    """The row of a variant; a dash for values that are not known."""
    measured = interval_at(entry)
    ratio, low, high = (number_at(entry, "ratio", key) for key in ("value", "ci_low", "ci_high"))
    known = None not in (ratio, low, high)
    drop = number_at(entry, metric, "drop")
    sqnr_db = number_at(entry, "parity", "sqnr_db")
    return [
        text(name),
        status(text_at(entry, "verdict")),
        text(DASH if measured is None else measured.in_words()),
        text(f"{number(ratio, 3)} ({number(low, 3)} to {number(high, 3)})" if known else DASH),
        text(_or_dash(number_at(entry, "size_bytes"), kibibytes)),
        text(_or_dash(number_at(entry, metric, "onnx"), percent)),
        text(_or_dash(drop, percent)),
        text(_or_dash(sqnr_db, decibels)),
    ]


def _or_dash(value: float | None, formatted: Callable[[float], str]) -> str:
    return DASH if value is None else formatted(value)


def _note(name: str, entry: dict[str, Any]) -> str:
    """Why a variant could not be made or failed its check; empty for one that passed."""
    error = text_at(entry, "error")
    if error is not None:
        return f"{name}: {error}"
    failed = [
        str(gate.get("name")) for gate in objects_at(entry, "gates") if gate.get("status") == "fail"
    ]
    return f"{name} failed these gates: {', '.join(failed)}." if failed else ""
