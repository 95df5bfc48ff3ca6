"""Charts of latencies: one model against its budget, candidates of a search, several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.reporting.formatting import CONFIDENCE_INTERVAL, milliseconds, percent
from hwnas.reporting.html import Html, text
from hwnas.reporting.run_files import Interval
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
    is_near,
    mark,
    svg_element,
)
from hwnas.reporting.theme import series_class


@dataclass(frozen=True)
class RunPoint:
    """A run in a chart of several runs.

    Attributes:
        label: short name that is written beside the point.
        measured: latency of the run's exported model.
        score: score on the test samples, 0 to 1.
        budget_ms: the run's latency budget, if known.
        series: number of the colour.
        score_interval: ends of the score's confidence interval, which are drawn; None for none.
    """

    label: str
    measured: Interval
    score: float
    budget_ms: float | None
    series: int
    score_interval: tuple[float, float] | None = None


def budget_chart(
    title: str, budget_ms: float, predicted_ms: float | None, measured: Interval
) -> Html:
    """Predicted and measured latency on a horizontal axis that starts at 0, with the budget."""
    known = [budget_ms, measured.value_ms, measured.high_ms, predicted_ms or 0.0]
    x = Axis.over(known, 18, 342, from_zero=True)
    bar, at = 44.0, x(budget_ms)
    # The word is written on the side with more room.
    anchor = "end" if at > 180 else "start"
    parts = [
        f'<path class="axis" d="M{x.start:g} {bar:g}H{x.end:g}"/>',
        *(
            f'<text x="{x(value):g}" y="76" text-anchor="middle">{label}</text>'
            f'<path class="axis" d="M{x(value):g} {bar:g}v8"/>'
            for value, label in x.ticks(4)
        ),
        f'<path class="budget" d="M{at:g} 22V62"/><text x="{at:g}" y="16" '
        f'text-anchor="{anchor}">budget</text>',
    ]
    if predicted_ms is not None:
        diamond = f'<path class="ring" d="M{x(predicted_ms):g} {bar - 8:g}l8 8l-8 8l-8 -8z"/>'
        parts.append(mark(f"predicted {milliseconds(predicted_ms)}", diamond, "s0"))
    interval = (
        f'<path class="ring" d="M{x(measured.low_ms):g} {bar:g}H{x(measured.high_ms):g}"/>'
        f'<circle class="dot" cx="{x(measured.value_ms):g}" cy="{bar:g}" r="6"/>'
    )
    parts.append(mark(f"measured {measured.in_words(f'{CONFIDENCE_INTERVAL} ')}", interval, "s1"))
    description = f"budget {milliseconds(budget_ms)}, measured {milliseconds(measured.value_ms)}"
    return svg_element(title, WIDTH, 84, parts, description)


def candidates_chart(
    title: str,
    predicted_ms: Sequence[float | None],
    measured: Sequence[Interval],
    budget_ms: float | None,
) -> Html:
    """Predicted and measured latency of the candidates, in the order of their measurement.

    Args:
        title: label for screen readers.
        predicted_ms: (n,), None where there is no prediction.
        measured: (n,).
        budget_ms: drawn as a dashed line; None for no line.
    """
    known = [value for value in predicted_ms if value is not None]
    ends = [end for m in measured for end in (m.value_ms, m.low_ms, m.high_ms)]
    budget = [] if budget_ms is None else [budget_ms]
    y = Axis.over([*known, *ends, *budget], BOTTOM, TOP)
    x = Axis(0.5, len(measured) + 0.5, LEFT, RIGHT)
    parts = [axes(x, y, "candidate", "latency (ms)", whole_x=True), budget_line(y, budget_ms)]
    for place, (value_ms, interval) in enumerate(zip(predicted_ms, measured, strict=True), 1):
        words = f"measured {interval.in_words()}"
        shape = (
            f'<g class="s1" data-series="1"><path class="ring" '
            f'd="M{x(place):g} {y(interval.low_ms):g}V{y(interval.high_ms):g}"/>'
            f'<circle class="dot" cx="{x(place):g}" cy="{y(interval.value_ms):g}" r="5"/></g>'
        )
        if value_ms is not None:
            words = f"predicted {milliseconds(value_ms)}, {words}"
            shape += (
                f'<g class="s0" data-series="0"><path class="ring" '
                f'd="M{x(place):g} {y(value_ms) - 6:g}l6 6l-6 6l-6 -6z"/></g>'
            )
        parts.append(mark(f"candidate {place}: {words}", shape))
    return svg_element(title, WIDTH, HEIGHT, parts)


def runs_chart(
    title: str,
    points: Sequence[RunPoint],
    front: Sequence[int],
    metric: str,
    *,
    budgets: bool,
    budget_ms: float | None = None,
) -> Html:
    """Score in percent against measured latency, one point for each run or candidate.

    Args:
        title: label for screen readers.
        points: at least one.
        front: indices of the Pareto-optimal points in the order of their latency, which a stepped
            line connects; empty for no line.
        metric: name of the score.
        budgets: whether dashed lines show the runs' budgets.
        budget_ms: a budget that all points share, drawn as one dashed line; None for no line.
    """
    ends = [
        end for p in points for end in (p.measured.value_ms, p.measured.low_ms, p.measured.high_ms)
    ]
    # A budget far beyond the latencies would push all points into a corner.
    near = [budgets and is_near(point.budget_ms, max(ends)) for point in points]
    limits = [p.budget_ms or 0.0 for p, shown in zip(points, near, strict=True) if shown]
    limits += [] if budget_ms is None else [budget_ms]
    x = Axis.over([*ends, *limits], LEFT, RIGHT, margin=0.08)
    scores = [end for p in points for end in (p.score, *(p.score_interval or ()))]
    y = Axis.over([100 * score for score in scores], BOTTOM, TOP, margin=0.18)
    centres = [(x(p.measured.value_ms), y(100 * p.score)) for p in points]
    parts = [axes(x, y, "measured latency (ms)", f"{metric} (%)")]
    if budget_ms is not None:
        parts.append(f'<path class="budget" d="M{x(budget_ms):g} {TOP:g}V{BOTTOM:g}"/>')
    if len(front) > 1:
        steps = f"M{centres[front[0]][0]:g} {centres[front[0]][1]:g}"
        steps += "".join(f"H{centres[i][0]:g}V{centres[i][1]:g}" for i in front[1:])
        parts.append(f'<path class="front" d="{steps}"/>')
    taken: list[tuple[float, float]] = []
    for point, centre, shown in zip(points, centres, near, strict=True):
        label = _label_beside(point.label, *centre, centres, taken)
        if point.score_interval is not None:
            low, high = (y(100 * end) for end in point.score_interval)
            label = f'<path class="ring" d="M{centre[0]:g} {low:g}V{high:g}"/>{label}'
        parts.append(_run_mark(point, x, centre, label, point.budget_ms if shown else None))
    return svg_element(title, WIDTH, HEIGHT, parts)


def _run_mark(
    point: RunPoint, x: Axis, centre: tuple[float, float], label: str, budget_ms: float | None
) -> str:
    """A run's dot, confidence interval and label, and the line of its budget if there is one.

    The label may have further shapes in front of it.
    """
    measured = point.measured
    words = f"{point.label}: {percent(point.score)} at {measured.in_words()}"
    shape = (
        f'<path class="ring" d="M{x(measured.low_ms):g} {centre[1]:g}H{x(measured.high_ms):g}"/>'
        f'<circle class="dot" cx="{centre[0]:g}" cy="{centre[1]:g}" r="6"/>{label}'
    )
    if budget_ms is not None:
        at = x(budget_ms)
        shape = f'<path class="budget" d="M{at:g} {TOP:g}V{BOTTOM:g}"/>{shape}'
        words += f", budget {milliseconds(budget_ms)}"
    return mark(words, shape, series_class(point.series))


def _label_beside(
    label: str,
    x: float,
    y: float,
    centres: Sequence[tuple[float, float]],
    taken: list[tuple[float, float]],
) -> str:
    """The label of a point, placed around it where it overlaps other points and labels least.

    Args:
        label: the text.
        x: horizontal position of the point.
        y: vertical position of the point.
        centres: positions of all points.
        taken: positions of the labels so far; the new one is added.
    """
    others = [c for c in centres if c != (x, y)] + taken
    places = [(x + dx, y + dy) for dx, dy in ((0, -16), (0, 17), (16, 0), (-16, 0), (14, -13))]

    def room(place: tuple[float, float]) -> float:
        inside = LEFT + 5 < place[0] < RIGHT - 5 and TOP < place[1] < BOTTOM
        distances = (max(abs(place[0] - ox), abs(place[1] - oy)) for ox, oy in others)
        return min([*distances, 14.0]) if inside else -1.0

    best = max(places, key=room)
    taken.append(best)
    return f'<text x="{best[0]:g}" y="{best[1] + 5:g}" text-anchor="middle">{text(label)}</text>'
