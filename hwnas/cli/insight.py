"""Explanations and diagnoses on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hwnas.errors import printable

ROWS = 12
"""Alternatives that the terminal lists; the report has all of them."""


def print_explanation(document: dict[str, Any], page: Path) -> None:
    """Print the best alternatives and what is said in words of an `explanation.json`."""
    from hwnas.reporting.explanation import agreement_sentences, budget_sentences, notes_in
    from hwnas.reporting.trust import calibration_sentence

    console = Console(highlight=False, markup=False)
    rows = [
        (choice["choice"], choice["option"], one)
        for choice in document["choices"]
        for one in choice["alternatives"]
    ]
    rows.sort(key=lambda row: -(row[2]["score"] or 0.0))
    table = Table("choice", "taken", "instead", "ms", "score", box=None, padding=(0, 2, 0, 0))
    for choice, option, one in rows[:ROWS]:
        score = "-"
        if one["score"] is not None:
            error = "" if one["error"] is None else f" \u00b1 {100 * one['error']:.1f}"
            score = f"{100 * one['score']:+.1f}{error}"
        difference = f"{one['difference_ms']:+.3g} \u00b1 {one['deviation_ms']:.1g}"
        table.add_row(*map(printable, (choice, option, one["option"])), difference, score)
    console.print(table)
    names = {choice["choice"]: choice["choice"] for choice in document["choices"]}
    sentences = [*budget_sentences(document, names), *agreement_sentences(document)]
    calibrated = calibration_sentence(document)
    for line in [*sentences, *([calibrated] if calibrated else []), *notes_in(document)]:
        console.print(printable(line, 500), soft_wrap=True)
    console.print(f"{page}: {len(rows)} alternatives, {document['seconds']:.0f} s")


def print_diagnosis(document: dict[str, Any], page: Path) -> None:
    """Print the measures of a `diagnosis.json`."""
    from hwnas.reporting.diagnosis import measures
    from hwnas.reporting.explanation import notes_in

    console = Console(highlight=False, markup=False)
    table = Table("measure", "value", box=None, padding=(0, 2, 0, 0))
    for group, rows in measures(document):
        table.add_row(group, "", style="bold")
        for row in rows:
            table.add_row(f"  {printable(row.name)}", printable(row.value))
    console.print(table)
    for line in notes_in(document):
        console.print(printable(line, 500), soft_wrap=True)
    console.print(f"{page}: what each says and does not say, {document['seconds']:.0f} s")
