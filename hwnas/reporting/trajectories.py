"""The part of a report on the probabilities of the options over the steps of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hwnas.architecture import Architecture
from hwnas.reporting.cells import cell_titles, choice_names
from hwnas.reporting.formatting import NO_BREAK, percent
from hwnas.reporting.html import (
    Html,
    details,
    explained,
    figure,
    legend,
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
    """A panel for each choice with its options' probabilities, grouped by cell or stage.

    Nothing if the search has recorded none.

    Args:
        run: the run.
        choices: choices of the run's search space.
        architecture: the architecture that the search found, if there is one yet.
    """
    steps, shares = run.trajectory(choices)
    if not steps:
        return []
    taken = {} if architecture is None else dict(architecture.options)
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    titles = cell_titles(choices)
    for place, choice in enumerate(choices):
        groups.setdefault((titles[choice.name], choice.options), []).append(place)
    explanation = (
        "Each panel shows how the probabilities of a choice's options changed over the search. For "
        "a strategy that samples single architectures, the probability of an option is its share "
        f"among the latest {RECENT} samples. The title of a panel names the option in the found "
        "architecture and the option's final probability. The found architecture keeps the "
        "latency budget, so it need not consist of the most probable options."
    )
    names = choice_names(choices)
    drawn = [
        _group(
            title if len(places) > 1 else names[choices[places[0]].name],
            options,
            places,
            choices,
            names,
            steps,
            shares,
            taken,
        )
        for (title, options), places in groups.items()
    ]
    return [*drawn, explained(explanation)]


def _group(
    title: str,
    options: tuple[str, ...],
    places: Sequence[int],
    choices: tuple[Choice, ...],
    names: Mapping[str, str],
    steps: Sequence[float],
    shares: np.ndarray,
    taken: dict[str, str],
) -> Html:
    """The panels of choices with the same options, with one legend and a table of final values."""
    panels: list[str] = []
    rows = []
    chosen = "chosen" if taken else "most probable"
    for place in places:
        key = choices[place].name
        name = names[key]
        last = shares[-1, place, : len(options)]
        option = taken.get(key, options[int(last.argmax())])
        probability = f"{100 * last[options.index(option)]:.0f}{NO_BREAK}%"
        if len(panels) < MAX_PANELS:
            label = f"{name}, {chosen} option {option}: final probability {probability}"
            svg = probabilities_panel(label, options, steps, shares[:, place, : len(options)])
            panels.append(
                f"<figure><figcaption><strong>{text(name)}</strong> "
                f"<span>{text(option)} {text(probability)}</span></figcaption>{svg}</figure>"
            )
        probabilities = (text(percent(float(p))) for p in last)
        rows.append([text(name), text(option), *probabilities])
    caption = (
        f"{len(panels)} of {len(places)} choices. From left to right: steps {steps[0]:,.0f} "
        f"to {steps[-1]:,.0f}. From bottom to top: probabilities of the options, which sum to 1."
    )
    grid = Html(f'<div class="panels">{"".join(panels)}</div>')
    values = table(f"{title}: final probabilities", ["choice", chosen, *options], rows, "sortable")
    as_table = details("Final probabilities as a table", values)
    return figure(title, caption, legend(options), grid, as_table, wide=True)
