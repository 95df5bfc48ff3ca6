"""The part of a report on the probabilities of the options over the steps of the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.architecture import Architecture
from hwnas.reporting.cells import CELL_NAMES, choice_routes
from hwnas.reporting.formatting import NO_BREAK, percent
from hwnas.reporting.html import (
    Html,
    details,
    figure,
    legend,
    missing,
    paragraph,
    table,
    text,
)
from hwnas.reporting.line_charts import probabilities_panel
from hwnas.reporting.run_files import Run
from hwnas.spaces.choices import Choice
from hwnas.strategies.sampled import RECENT

MAX_PANELS = 60
"""Panels of one group of choices; further choices are in the table only."""


def trajectory_figures(
    run: Run, choices: tuple[Choice, ...], architecture: Architecture | None
) -> list[Html]:
    """A panel for each choice with its options' probabilities, grouped by type of cell.

    Args:
        run: the run.
        choices: choices of the run's search space.
        architecture: the architecture that the search found, if there is one yet.
    """
    steps, shares = run.trajectory(choices)
    if not steps:
        return [missing("The search has recorded no option probabilities.")]
    taken = {} if architecture is None else dict(architecture.options)
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for place, choice in enumerate(choices):
        prefix = choice.name.rpartition("/")[0]
        groups.setdefault((prefix, choice.options), []).append(place)
    sentence = (
        "Each panel shows how the probabilities of a choice's options changed over the search. For "
        "a strategy that samples single architectures, the probability of an option is its share "
        f"among the latest {RECENT} samples. The title of a panel names the option in the found "
        "architecture and the option's final probability. The found architecture keeps the "
        "latency budget, so it need not consist of the most probable options."
    )
    drawn = [
        _group(prefix, options, places, choices, steps, shares, taken)
        for (prefix, options), places in groups.items()
    ]
    return [paragraph(sentence), *drawn]


def _group(
    prefix: str,
    options: tuple[str, ...],
    places: Sequence[int],
    choices: tuple[Choice, ...],
    steps: Sequence[float],
    shares: np.ndarray,
    taken: dict[str, str],
) -> Html:
    """The panels of choices with the same options, with one legend and a table of final values."""
    panels: list[str] = []
    rows = []
    routes = choice_routes(choices)
    chosen = "chosen" if taken else "most probable"
    for place in places:
        name = choices[place].name
        last = shares[-1, place, : len(options)]
        option = taken.get(name, options[int(last.argmax())])
        probability = f"{100 * last[options.index(option)]:.0f}{NO_BREAK}%"
        route = routes.get(name, name.rpartition("/")[2])
        if len(panels) < MAX_PANELS:
            title = f"{name}, {chosen} option {option}: final probability {probability}"
            svg = probabilities_panel(title, options, steps, shares[:, place, : len(options)])
            panels.append(
                f"<figure><figcaption><strong>{text(route)}</strong> "
                f"<span>{text(option)} {text(probability)}</span></figcaption>{svg}</figure>"
            )
        probabilities = (text(percent(float(p))) for p in last)
        rows.append([text(name), text(option), *probabilities])
    title = CELL_NAMES.get(prefix, prefix) or "Choices"
    named = ", each named by the nodes that it connects" if routes else ""
    caption = (
        f"{len(panels)} of {len(places)} choices{named}. From left to right: steps {steps[0]:,.0f} "
        f"to {steps[-1]:,.0f}. From bottom to top: probabilities of the options, which sum to 1."
    )
    grid = Html(f'<div class="panels">{"".join(panels)}</div>')
    values = table(f"{title}: final probabilities", ["choice", chosen, *options], rows, "sortable")
    as_table = details("Final probabilities as a table", values)
    return figure(title, caption, legend(options), grid, as_table, wide=True)
