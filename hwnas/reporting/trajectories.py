"""The part of a report on how the choices came about: their options' probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.architecture import Architecture
from hwnas.reporting.cells import CELL_NAMES, choice_routes
from hwnas.reporting.charts import shares_panel
from hwnas.reporting.html import (
    NO_BREAK,
    Html,
    details,
    figure,
    legend,
    missing,
    paragraph,
    percent,
    table,
    text,
)
from hwnas.reporting.run_files import Run
from hwnas.spaces.choices import Choice

MOST_PANELS = 60


def trajectory_figures(
    run: Run, choices: tuple[Choice, ...], architecture: Architecture | None
) -> list[Html]:
    """A panel for each choice: its options' probabilities as areas, grouped by type of cell.

    Args:
        run: with a history.
        choices: of the run's space.
        architecture: what was found, if there is something.
    """
    steps, shares = run.trajectory(choices)
    if not steps:
        return [missing("The history has no probabilities of the options.")]
    taken = {} if architecture is None else dict(architecture.options)
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for place, choice in enumerate(choices):
        prefix = choice.name.rpartition("/")[0]
        groups.setdefault((prefix, choice.options), []).append(place)
    sentence = (
        "For each choice, from the first record to the last, how probable its options were: by the "
        "strategy's parameters, or, where it draws single architectures, how often the latest 50 "
        "took the option. Titles name the result and its last probability. The architecture "
        "is the most probable one that keeps the budget, which need not be the most probable "
        "option of each choice."
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
    """The panels of choices with the same options, under one legend, and their last values."""
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
        if len(panels) < MOST_PANELS:
            title = f"{name}, {chosen} {option}: {probability} in the end"
            svg = shares_panel(title, options, steps, shares[:, place, : len(options)])
            panels.append(
                f"<figure><figcaption><strong>{text(route)}</strong> "
                f"<span>{text(option)} {text(probability)}</span></figcaption>{svg}</figure>"
            )
        probabilities = (text(percent(float(p))) for p in last)
        rows.append([text(name), text(option), *probabilities])
    title = CELL_NAMES.get(prefix, prefix) or "Choices"
    named = ", named by the states they join" if routes else ""
    caption = f"{len(panels)} of {len(places)} choices{named}; steps "
    caption += f"{steps[0]:,.0f} to {steps[-1]:,.0f} from left to right."
    grid = Html(f'<div class="panels">{"".join(panels)}</div>')
    values = table(f"{title}: last probabilities", ["choice", chosen, *options], rows, "sortable")
    as_table = details("Last probabilities as a table", values)
    return figure(title, caption, legend(options), grid, as_table, wide=True)
