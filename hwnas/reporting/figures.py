"""Parts that several sections and the comparison of runs share: line charts, long tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.reporting.formatting import DASH, milliseconds, number
from hwnas.reporting.html import Html, details, figure, legend, missing, table, text
from hwnas.reporting.line_charts import MAX_POINTS, group_size, line_chart
from hwnas.reporting.run_files import Series
from hwnas.reporting.svg import is_near

MAX_ROWS = 40
"""Rows of a table that could have thousands, such as one for each class."""
MAX_VALUES = 20
"""Rows of a table with the values of a chart."""


def line_figure(
    title: str,
    series: Sequence[Series],
    y_label: str,
    caption: str,
    *,
    budget_ms: float | None = None,
    from_zero: bool = False,
) -> Html:
    """A line chart over steps with its legend and a table of its values.

    Args:
        title: title of the figure.
        series: the lines; those without points are left out.
        y_label: name of the vertical axis, with its unit.
        caption: sentences below the title.
        budget_ms: the budget in a chart of latencies.
        from_zero: whether the vertical axis starts at 0; for values that are not negative.
    """
    shown = [line for line in series if line.x]
    if not shown:
        return missing(f"{title}: the run has recorded no values.")
    records = max(len(line.x) for line in shown)
    if records > MAX_POINTS:
        caption += f" Each point is the mean of {group_size(records)} records."
    if budget_ms is not None and not is_near(budget_ms, max(max(line.y) for line in shown)):
        caption += f" The budget of {milliseconds(budget_ms)} is outside the range of the chart."
        budget_ms = None
    chart = line_chart(title, shown, y_label=y_label, budget_ms=budget_ms, from_zero=from_zero)
    dashed = [] if budget_ms is None else [("dashed", "budget")]
    labels = [line.label for line in shown]
    key = [legend(labels, *dashed)] if len(labels) + len(dashed) > 1 else []
    return figure(title, caption, *key, chart, _values(title, shown))


def _values(title: str, series: Sequence[Series]) -> Html:
    """A hidden table with the values of the lines at evenly spaced steps."""
    known = [dict(zip(line.x, line.y, strict=True)) for line in series]
    steps = sorted({step for line in series for step in line.x})
    places = np.unique(np.linspace(0, len(steps) - 1, MAX_VALUES).round().astype(int))
    rows = []
    for step in (steps[place] for place in places):
        values = (number(line[step]) if step in line else DASH for line in known)
        rows.append([text(number(step)), *map(text, values)])
    header = ["step", *(line.label for line in series)]
    return details("Values as a table", table(title, header, rows))


def first_rows(
    name: str, header: Sequence[str], rows: Sequence[Sequence[Html]], css_class: str = ""
) -> Html:
    """A sortable table of the first `MAX_ROWS` rows, with a note if there are more."""
    shown = table(name, header, rows[:MAX_ROWS], f"sortable {css_class}".rstrip())
    if len(rows) <= MAX_ROWS:
        return Html(f"<div>{shown}</div>")
    return Html(f"<div>{shown}{missing(f'{MAX_ROWS} of {len(rows)} rows are shown.')}</div>")
