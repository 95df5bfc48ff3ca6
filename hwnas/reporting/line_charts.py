"""Charts over the steps of a search or a training: curves, and probabilities as stacked areas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.reporting.formatting import number, percent
from hwnas.reporting.html import Html
from hwnas.reporting.run_files import Series
from hwnas.reporting.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axes,
    budget_line,
    mark,
    nearest_strips,
    strip_shape,
    svg_element,
)
from hwnas.reporting.theme import series_class

MAX_POINTS = 240
"""Points of a line; a chart of this width cannot show more."""
MAX_MARKS = 120
"""Marks of a line chart; narrower ones would be hard to hit with a pointer."""
MARK_REACH = 6.0
"""How far a line's point may be from the centre of a mark that lists its value."""
PANEL_WIDTH, PANEL_HEIGHT = 160.0, 80.0
PANEL_POINTS = 40


def group_size(points: int) -> int:
    """How many neighbouring points are averaged into one so that `MAX_POINTS` are left."""
    return -(-points // MAX_POINTS)


def downsample(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """At most `MAX_POINTS` points: the means of groups of neighbouring points.

    Args:
        x: (n,) in increasing order.
        y: (n,).

    Returns:
        (2, m): x and y.
    """
    points = np.array([x, y], dtype=float)
    size = group_size(len(x))
    if size <= 1:
        return points
    starts = range(0, len(x), size)
    return np.stack([points[:, i : i + size].mean(axis=1) for i in starts], axis=1)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    budget_ms: float | None = None,
    from_zero: bool = False,
) -> Html:
    """Lines over steps, and the budget as a dashed line.

    Args:
        title: label for screen readers.
        series: at least one, each with at least one point.
        y_label: name of the vertical axis, with its unit.
        budget_ms: the budget in a chart of latencies.
        from_zero: whether the vertical axis starts at 0; for values that are not negative.
    """
    lines = [downsample(line.x, line.y) for line in series]
    budget = [] if budget_ms is None else [budget_ms]
    values = [*np.concatenate([ys for _, ys in lines]).tolist(), *budget]
    y = Axis.over(values, BOTTOM, TOP, from_zero=from_zero)
    x = Axis.over(np.concatenate([xs for xs, _ in lines]).tolist(), LEFT, RIGHT, margin=0.0)
    description = "; ".join(
        f"{line.label}: from {number(line.y[0])} at step {line.x[0]:g} to {number(line.y[-1])} at "
        f"step {line.x[-1]:g}"
        for line in series
    )
    parts = [
        axes(x, y, "step", y_label, whole_x=True),
        budget_line(y, budget_ms),
        *(_line(x, y, points, place) for place, points in enumerate(lines)),
        *_value_marks(x, [line.label for line in series], lines),
    ]
    return svg_element(title, WIDTH, HEIGHT, parts, description)


def _line(x: Axis, y: Axis, points: np.ndarray, place: int) -> str:
    """A line through the points (2, n), or a dot where there is only one."""
    at = [(x(a), y(b)) for a, b in points.T]
    if len(at) == 1:
        shape = f'<circle class="dot" cx="{at[0][0]:g}" cy="{at[0][1]:g}" r="4"/>'
    else:
        corners = " ".join(f"{a:g},{b:g}" for a, b in at)
        shape = f'<polyline class="line" points="{corners}"/>'
    return f'<g class="{series_class(place)}" data-series="{place}">{shape}</g>'


def _value_marks(x: Axis, labels: Sequence[str], lines: Sequence[np.ndarray]) -> list[str]:
    """Vertical strips over the chart, each of which shows the values of all lines at its step."""
    steps = np.unique(np.concatenate([points[0] for points in lines]))
    steps = steps[:: -(-len(steps) // MAX_MARKS)]
    marks = []
    for step, left, width in nearest_strips(x, steps):
        values = []
        for label, (xs, ys) in zip(labels, lines, strict=True):
            nearest = int(np.abs(xs - step).argmin())
            if abs(x(xs[nearest]) - x(step)) <= MARK_REACH:
                values.append(f"{label} {number(float(ys[nearest]))}")
        words = f"step {round(step):,}: {', '.join(values)}"
        marks.append(mark(words, strip_shape(left, width, TOP, BOTTOM)))
    return marks


def probabilities_panel(
    title: str, options: Sequence[str], steps: Sequence[float], probabilities: np.ndarray
) -> Html:
    """The probabilities of a choice's options as stacked areas, the first option at the bottom.

    Args:
        title: label for screen readers.
        options: names of the options.
        steps: (n,) in increasing order.
        probabilities: (n, options); each row sums to 1.
    """
    kept = np.unique(
        np.linspace(0, len(steps) - 1, min(len(steps), PANEL_POINTS)).round().astype(int)
    )
    at, shares = np.asarray(steps, dtype=float)[kept], probabilities[kept]
    if len(at) == 1:
        at, shares = np.array([0.0, at[0]]), shares.repeat(2, axis=0)
    x = Axis.over(at.tolist(), 0, PANEL_WIDTH, margin=0.0)
    heights = PANEL_HEIGHT * (1 - np.pad(shares, ((0, 0), (1, 0))).cumsum(axis=1))
    parts = []
    for option in range(len(options)):
        below, above = (
            [f"{x(step):g},{height:.1f}" for step, height in zip(at, heights[:, i], strict=True)]
            for i in (option, option + 1)
        )
        area = f'<polygon class="area" points="{" ".join([*below, *reversed(above)])}"/>'
        parts.append(f'<g class="{series_class(option)}" data-series="{option}">{area}</g>')
    for (step, left, width), row in zip(nearest_strips(x, at), shares, strict=True):
        order = np.argsort(-row, kind="stable")[:3]
        words = ", ".join(f"{options[o]} {percent(float(row[o]))}" for o in order)
        shape = strip_shape(left, width, 0.0, PANEL_HEIGHT)
        parts.append(mark(f"step {round(step):,}: {words}", shape))
    return svg_element(title, PANEL_WIDTH, PANEL_HEIGHT, parts)
