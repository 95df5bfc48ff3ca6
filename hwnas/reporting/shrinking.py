"""The section of a report on a network that was shrunk: what went, and what each round cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.architecture import Architecture
from hwnas.reporting.figures import first_rows
from hwnas.reporting.formatting import CI, DASH, count, number, percent, sentence_case
from hwnas.reporting.html import (
    Html,
    Section,
    details,
    explained,
    figure,
    heading,
    paragraph,
    section,
    table,
    text,
)
from hwnas.reporting.latency_charts import RunPoint, runs_chart
from hwnas.reporting.run_files import Run, interval_at, number_at, objects_at, value_at
from hwnas.shrinking.resolution import NAME as SIZE_NAME
from hwnas.spaces.choices import Choice

MEANING = (
    "In each round, the channels and blocks whose removal raises the loss least within the round's "
    "budget were taken away, as far as first-order Taylor importance tells; then the network was "
    "trained for a short time with the original as its teacher. Scores are those on the test "
    "samples; they did not decide anything. The last point is the exported model after the last "
    "training."
)


def shrinking_section(
    run: Run, choices: Sequence[Choice], architecture: Architecture | None
) -> list[Section]:
    """What was taken away from the original, round by round; nothing in other runs.

    Args:
        run: the run.
        choices: the widths and blocks of the run's space.
        architecture: what is left, if that is decided.
    """
    originals = run.events("original")
    if not originals:
        return []
    parts = [_rounds(run, originals[0]), *_formats(run)]
    if architecture is not None:
        parts.append(_taken(choices, architecture))
    left = [
        [text(str(one.get("layer"))), text(str(one.get("reason")))]
        for one in objects_at(originals[0], "left")
    ]
    if left:
        shown = table("Channels that stay", ("layer", "reason"), left)
        parts.append(details("Channels that could not be taken away", shown))
    return [section("What was taken away", *parts, explained(MEANING))]


def _rounds(run: Run, original: dict[str, Any]) -> Html:
    """Score against latency of the original, of all rounds, and of the final model."""
    found = [("original", original, number_at(original, "supernet_accuracy"))]
    found += [
        (f"round {record.get('step')}", record, number_at(record, "recovered"))
        for record in run.events("shrink")
    ]
    rows, points = [], []
    for place, (name, record, score) in enumerate(found):
        measured = interval_at(record)
        rows.append(
            [
                text(name),
                text(number(number_at(record, "budget_ms"))),
                text(DASH if measured is None else measured.in_words()),
                text(DASH if score is None else percent(score)),
            ]
        )
        if measured is not None and score is not None:
            points.append(RunPoint(name, measured, score, None, place))
    if run.measured is not None and run.score is not None:
        points.append(RunPoint("final", run.measured, run.score, None, len(found)))
        final = [number(run.budget_ms), run.measured.in_words(), percent(run.score)]
        rows.append([text(value) for value in ("final", *final)])
    metric = run.metric_in_words
    header = ("network", "budget (ms)", f"measured ({CI})", metric)
    values = table("The rounds", header, rows, "stacked")
    if len(points) < 2:
        return values
    title = f"{sentence_case(metric)} against measured latency"
    caption = "The original network, what each round left of it, and the final model."
    chart = runs_chart(title, points, [], metric, budgets=False, budget_ms=run.budget_ms)
    return Html(figure(title, caption, chart) + values)


def _formats(run: Run) -> list[Html]:
    """Which operators are quantised, where formats were asked for."""
    if value_at(run.settings, "shrink", "variant") in (None, "fp32"):
        return []
    keys = ("quantised", "operators", "ratio")
    quantised, operators, ratio = (number_at(run.formats, key) for key in keys)
    if quantised is None or operators is None or ratio is None:
        sentence = "All operators are in float32: in int8 none was faster, or none needs to be."
    else:
        sentence = (
            f"{quantised:.0f} of {operators:.0f} convolutions and matrix products are in int8. So "
            f"the network takes {percent(ratio)} of its time in float32. Budgets and latencies of "
            "the rounds are those of float32."
        )
    return [paragraph(sentence)]


def _taken(choices: Sequence[Choice], architecture: Architecture) -> Html:
    """The widths before and after, and the blocks that went."""
    chosen = dict(architecture.options)
    removed = [c.name for c in choices if chosen[c.name] == "remove"]
    rows = []
    for choice in choices:
        if not choice.options[-1].isdigit():
            continue
        gone = any(choice.name.startswith(f"{block}.") for block in removed)
        before, after = int(choice.options[-1]), 0 if gone else int(chosen[choice.name])
        cells = (choice.name, count(before), count(after), percent(after / before, 0))
        rows.append([text(cell) for cell in cells])
    sentence = f"Removed blocks: {', '.join(removed)}." if removed else "No block was removed."
    for choice in choices:
        if choice.name == SIZE_NAME:
            sentence += f" Inputs of {choice.options[-1]} are read at {chosen[choice.name]}."
    header = ("first layer of the group", "channels before", "channels after", "share")
    return Html(
        heading("Channels and blocks")
        + paragraph(sentence)
        + first_rows("Channels of each group", header, rows, "sortable")
    )
