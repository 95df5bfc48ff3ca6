"""Charts as SVG that stands in a page: drawn with matplotlib, in colours for light and dark.

All drawings are 360 units wide with letters of 15, so that they can be read on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.reporting.html import text
from hwnas.reporting.run_files import Interval, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f7fc4", "#c9711c", "#3a945a", "#9165c9", "#cc4f5e", "#8a7a35")
"""At least 3:1 against the pages' light and dark backgrounds."""
INK = "#010203"
"""Stands for the page's own text colour, which matplotlib cannot name."""
SIZE_INCHES = (5.0, 3.3)
MAX_POINTS = 240
"""More than a chart of this width can show."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 15.0,
    "text.parse_math": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.0,
}


@dataclass(frozen=True)
class RunPoint:
    """A run among others; accuracy as a share of 1."""

    label: str
    measured: Interval
    accuracy: float
    budget_ms: float | None


def svg_element(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """An SVG as wide as its place, with a title for those who cannot see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{text(title)}">{"".join(parts)}</svg>'
    )


def group_size(points: int) -> int:
    """How many neighbours become one point of a chart."""
    return -(-points // MAX_POINTS)


def thin(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """At most `MAX_POINTS` points (2, n): means of groups of neighbours of equal size."""
    points = np.array([x, y], dtype=float)
    size = group_size(len(x))
    if size <= 1:
        return points
    starts = range(0, len(x), size)
    return np.stack([points[:, i : i + size].mean(axis=1) for i in starts], axis=1)


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    budget_ms: float | None = None,
    from_zero: bool = False,
) -> str:
    """Lines over steps, and the budget as a dashed line.

    Args:
        name: of the chart, unique in its page.
        title: for those who cannot see the chart.
        series: at least one, each with at least one point.
        y_label: of the vertical axis, with the unit.
        budget_ms: of latency charts.
        from_zero: whether the vertical axis starts at 0; for values that are not negative.
    """

    def draw(axes: Axes) -> None:
        for colour, line in zip(COLOURS, series, strict=False):
            # A line of one point would be invisible.
            marker = "o" if len(line.x) == 1 else ""
            axes.plot(*thin(line.x, line.y), color=colour, label=line.label, marker=marker)
        _draw_budget(axes, budget_ms)
        if from_zero:
            axes.set_ylim(0, 1.08 * max(max(line.y) for line in series) or 1.0)
        _label_axes(axes, "step", y_label, whole_x=True)

    return _render(name, title, draw)


def candidates_chart(
    name: str,
    title: str,
    predicted_ms: Sequence[float | None],
    measured: Sequence[Interval],
    budget_ms: float | None,
) -> str:
    """Predicted and measured latency of the candidates, in the order of measuring."""

    def draw(axes: Axes) -> None:
        places = range(1, len(measured) + 1)
        predicted = [np.nan if value is None else value for value in predicted_ms]
        axes.plot(
            places, predicted, "D", color=COLOURS[0], fillstyle="none", markersize=9.0,
            label="predicted",
        )  # fmt: skip
        values, errors = _errors(measured)
        axes.errorbar(
            places, values, errors, color=COLOURS[1], fmt="o", capsize=5, label="measured"
        )
        _draw_budget(axes, budget_ms)
        axes.set_xlim(0.5, len(measured) + 0.5)
        _label_axes(axes, "candidate", "latency, ms", whole_x=True)

    return _render(name, title, draw)


def runs_chart(name: str, title: str, points: Sequence[RunPoint]) -> str:
    """Accuracy in percent against measured latency, a point and a budget's line for each run."""

    def draw(axes: Axes) -> None:
        for i, point in enumerate(points):
            colour = COLOURS[i % len(COLOURS)]
            (x,), error = _errors([point.measured])
            y = 100 * point.accuracy
            axes.errorbar(x, y, xerr=error, color=colour, fmt="o", markersize=8.0, capsize=4)
            axes.annotate(point.label, (x, y), (0, 9), textcoords="offset points", ha="center")
            if point.budget_ms is not None:
                axes.axvline(point.budget_ms, color=colour, linestyle="--", linewidth=1.5)
        axes.margins(0.12, 0.2)
        _label_axes(axes, "measured latency, ms", "accuracy, %")

    return _render(name, title, draw)


def _errors(measured: Sequence[Interval]) -> tuple[list[float], np.ndarray]:
    """Values (n,), and the lengths (2, n) of the intervals below and above them."""
    values = [m.value_ms for m in measured]
    below = [max(m.value_ms - m.low_ms, 0.0) for m in measured]
    above = [max(m.high_ms - m.value_ms, 0.0) for m in measured]
    return values, np.array([below, above])


def _draw_budget(axes: Axes, budget_ms: float | None) -> None:
    if budget_ms is not None:
        axes.axhline(budget_ms, color=INK, linestyle="--", linewidth=1.5, label="budget")


def _label_axes(axes: Axes, x_label: str, y_label: str, *, whole_x: bool = False) -> None:
    """Names, few ticks, a faint grid, and a legend above where there are several things."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole_x))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(useOffset=False, scilimits=(-4, 7))
    axes.grid(color=INK, alpha=0.15, linewidth=1.0)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        axes.figure.legend(
            handles, names, loc="outside upper left", ncols=3, frameon=False,
            handlelength=1.2, handletextpad=0.5, columnspacing=0.9, borderpad=0.0,
        )  # fmt: skip


def _render(name: str, title: str, draw: Callable[[Axes], None]) -> str:
    """The SVG of a figure with one pair of axes."""
    # matplotlib takes most of a second to import, and most of the package does without it.
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    # Without a date and with a fixed salt for identifiers the same data give the same bytes.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=SIZE_INCHES, dpi=72, layout="constrained")
        draw(figure.add_subplot())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    # The page brings its own prolog and style sheet.
    drawn = re.sub(
        r"^.*?<svg[^>]*>|<style.*?</style>|</svg>\s*$", "", buffer.getvalue(), flags=re.DOTALL
    )
    width, height = (72 * inches for inches in SIZE_INCHES)
    drawn = _with_own_ids(drawn, name).replace(INK, "currentColor")
    return svg_element(title, width, height, [drawn])


def _with_own_ids(svg: str, name: str) -> str:
    """Charts share a page: identifiers that are referred to get the chart's name, others go."""
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    svg = re.sub(
        r' id="([^"]*)"',
        lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "",
        svg,
    )
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
