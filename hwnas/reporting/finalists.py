"""The finalists of a search that were trained before one was chosen, in a report."""

from __future__ import annotations

from typing import Any

from hwnas.reporting.figures import first_rows
from hwnas.reporting.formatting import CI, DASH, number, percent
from hwnas.reporting.html import Html, explained, heading, paragraph, text
from hwnas.reporting.run_files import Run, interval_at, number_at

MEANING = (
    "All finalists keep the budget as measured. They were trained on one half of the training "
    "samples and scored on the other; the better half of them went on in each round. The winner "
    "was then trained anew on all training samples."
)


def finalists_figures(run: Run) -> list[Html]:
    """The scores of the finalists by round, and what their size says; nothing without finalists."""
    scores: dict[str, dict[int, float]] = {}
    choices: dict[str, Any] = {}
    for record in run.events("finalists"):
        rung, score = number_at(record, "rung"), number_at(record, "score")
        if rung is not None and score is not None:
            key = str(record.get("choices"))
            choices[key] = record.get("choices")
            scores.setdefault(key, {})[int(rung)] = score
    if not scores:
        return []
    rungs = sorted({rung for by_rung in scores.values() for rung in by_rung})
    header = ["no.", f"measured latency ({CI})"]
    header += [f"{run.metric_in_words} after round {rung + 1}" for rung in rungs]
    rows = [
        [
            text(f"{place}, chosen" if _is_chosen(run, choices[key]) else place),
            text(_latency(run, choices[key])),
            *(text(percent(by_rung[r]) if r in by_rung else DASH) for r in rungs),
        ]
        for place, (key, by_rung) in enumerate(scores.items(), start=1)
    ]
    table = first_rows("Finalists", header, rows, "stacked")
    return [heading("Finalists"), table, *_size(run), explained(MEANING)]


def _is_chosen(run: Run, choices: Any) -> bool:
    """Whether these are the choices of the architecture that the search found."""
    chosen = run.architecture.get("choices")
    return chosen is not None and choices == chosen


def _latency(run: Run, choices: Any) -> str:
    """The latency that the candidate with these choices was measured with."""
    for record in reversed(run.events("measurement")):
        measured = interval_at(record)
        if measured is not None and record.get("choices") == choices:
            return measured.in_words()
    return DASH


def _size(run: Run) -> list[Html]:
    """What the first round told about the size of networks; nothing where it was not asked."""
    for record in run.events("finalists"):
        gain, trust = number_at(record, "score_per_doubling"), number_at(record, "trust")
        if gain is not None and trust is not None and (gain or trust != 1):
            sentence = (
                f"In the first round, networks of twice the size (parameters and multiply-"
                f"accumulates) scored {number(100 * gain, 2)} points more. {percent(trust, 0)} of "
                "what a finalist's score deviates from that was trusted, the rest taken for noise."
            )
            return [paragraph(sentence)]
    return []
