"""The part of a report on other number formats of the exported model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwnas.reporting.html import (
    Html,
    Section,
    decibels,
    kibibytes,
    missing,
    number,
    paragraph,
    percent,
    section,
    status,
    table,
    text,
)
from hwnas.reporting.run_files import Run, interval_at, number_at, objects_at, text_at, value_at

TITLE = "Other number formats"
DASH = "\u2013"


def variants_section(run: Run) -> list[Section]:
    """Each variant that was exported, gated and measured; nothing where none was asked for."""
    made = value_at(run.variants, "variants")
    if not isinstance(made, dict):
        return []
    entries = {name: entry for name, entry in made.items() if isinstance(entry, dict)}
    score = run.metric_in_words
    header = (
        "variant", "verdict", "latency (95 % interval)", "of fp32's time", "size", score,
        "lost by export", "signal to error",
    )  # fmt: skip
    rows = [_row(name, entry, run.metric) for name, entry in entries.items()]
    notes = [missing(note) for name, entry in entries.items() if (note := _note(name, entry))]
    fastest = text_at(run.variants, "fastest")
    named = f"The fastest that passes is {fastest}." if fastest else "None passes."
    sentence = (
        f"{named} All were measured in turn in one process; the ratios are of the same rounds, and "
        f"{score} is that on the test samples."
    )
    return [section(TITLE, paragraph(sentence), table(TITLE, header, rows), *notes)]


def _row(name: str, entry: dict[str, Any], metric: str) -> list[Html]:
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


def _or_dash(value: float | None, in_words: Callable[[float], str]) -> str:
    return DASH if value is None else in_words(value)


def _note(name: str, entry: dict[str, Any]) -> str:
    """Why a variant is not there, or does not pass."""
    error = text_at(entry, "error")
    if error is not None:
        return f"{name}: {error}"
    failed = [
        str(gate.get("name")) for gate in objects_at(entry, "gates") if gate.get("status") == "fail"
    ]
    return f"{name} fails {', '.join(failed)}." if failed else ""
