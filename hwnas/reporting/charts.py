"""Charts as SVG that stands in a page, whose script lets readers explore them.

What a chart can tell about is a group of class `mark`: a title with the values, and a shape that a
pointer meets. Browsers show the titles without scripts; the page's script reads them out for the
keyboard too. Drawings are 360 units wide with letters of 14, so that they can be read on a phone;
colours are CSS classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.reporting.html import Html, milliseconds, number, percent, series_class, text
from hwnas.reporting.run_files import Interval, Series

WIDTH, HEIGHT = 360.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 338.0, 24.0, 190.0
MAX_POINTS = 240
"""More than a chart of this width can show."""
MAX_MARKS = 120
"""As narrow as a pointer can meet."""
PANEL_WIDTH, PANEL_HEIGHT = 160.0, 80.0
PANEL_POINTS = 40


@dataclass(frozen=True)
class RunPoint:
    """A run among others; its score as a share of 1, `series` chooses the colour."""

    label: str
    measured: Interval
    score: float
    budget_ms: float | None
    series: int


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to the drawing.

    Attributes:
        low, high: values at its ends.
        start, end: where these are drawn.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(
        cls,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        margin: float = 0.06,
        from_zero: bool = False,
    ) -> Axis:
        """An axis that all values fit on, with room at its ends."""
        low, high = min(values), max(values)
        if from_zero:
            low = min(low, 0.0)
        room = margin * (high - low)
        if low == high == 0:
            room = 1.0
        elif high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
            room = 0.1 * max(abs(high), 1e-6)
        return cls(low - (0.0 if from_zero and low == 0 else room), high + room, start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int = 5, *, whole: bool = False) -> list[tuple[float, str]]:
        """Round values on the axis and their labels."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        if whole:
            step = max(1.0, step)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        plain = max(abs(self.low), abs(self.high)) < 1e5 and decimals <= 5
        values = [i * step for i in range(first, min(last, first + 2 * most) + 1)]
        return [(v, f"{v:.{decimals}f}" if plain else f"{v:.3g}") for v in values]


def svg_element(
    title: str, width: float, height: float, parts: Sequence[str], description: str = ""
) -> Html:
    """An SVG as wide as its place, with a title and a description for those who cannot see it."""
    described = f"<desc>{text(description)}</desc>" if description else ""
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{text(title)}">{described}{"".join(parts)}</svg>'
    )


def mark(title: str, shape: str, css_class: str = "") -> str:
    """A shape that tells its values under the pointer."""
    return f'<g class="mark {css_class}"><title>{text(title)}</title>{shape}</g>'


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
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    budget_ms: float | None = None,
    from_zero: bool = False,
) -> Html:
    """Lines over steps, and the budget as a dashed line.

    Args:
        title: for those who cannot see the chart.
        series: at least one, each with at least one point; their `place` chooses the colour.
        y_label: of the vertical axis, with the unit.
        budget_ms: of latency charts.
        from_zero: whether the vertical axis starts at 0; for values that are not negative.
    """
    thinned = [thin(line.x, line.y) for line in series]
    budget = [] if budget_ms is None else [budget_ms]
    y = Axis.over(
        [*np.concatenate([t[1] for t in thinned]).tolist(), *budget], BOTTOM, TOP,
        from_zero=from_zero,
    )  # fmt: skip
    x = Axis.over(np.concatenate([t[0] for t in thinned]).tolist(), LEFT, RIGHT, margin=0.0)
    lines = []
    for place, (xs, ys) in enumerate(thinned):
        if len(xs) == 1:
            shape = f'<circle class="dot" cx="{x(xs[0]):g}" cy="{y(ys[0]):g}" r="4"/>'
        else:
            points = " ".join(f"{x(a):g},{y(b):g}" for a, b in zip(xs, ys, strict=True))
            shape = f'<polyline class="line" points="{points}"/>'
        lines.append(f'<g class="{series_class(place)}" data-series="{place}">{shape}</g>')
    description = "; ".join(
        f"{line.label}: from {number(line.y[0])} at step {line.x[0]:g} to {number(line.y[-1])} at "
        f"step {line.x[-1]:g}"
        for line in series
    )
    parts = [_axes(x, y, "step", y_label, whole_x=True), _budget_line(y, budget_ms), *lines]
    parts += _slices(x, [line.label for line in series], thinned)
    return svg_element(title, WIDTH, HEIGHT, parts, description)


def _slices(x: Axis, labels: Sequence[str], thinned: Sequence[np.ndarray]) -> list[str]:
    """Vertical slices of the chart that tell all lines' values at their step."""
    steps = np.unique(np.concatenate([points[0] for points in thinned]))
    steps = steps[:: -(-len(steps) // MAX_MARKS)]
    slices = []
    for step, start, width in _strips(x, steps):
        values = []
        for label, (xs, ys) in zip(labels, thinned, strict=True):
            nearest = int(np.abs(xs - step).argmin())
            if abs(x(xs[nearest]) - x(step)) <= 6:
                values.append(f"{label} {number(float(ys[nearest]))}")
        words = f"step {round(step):,}: {', '.join(values)}"
        slices.append(mark(words, _slice(start, width, TOP, BOTTOM)))
    return slices


def _strips(x: Axis, steps: np.ndarray) -> list[tuple[float, float, float]]:
    """Each step with the start and width of the strip that is nearer to it than to the others."""
    centres = [x(step) for step in steps]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(centres)]
    ends = [x.start, *middles, x.end]
    pairs = itertools.pairwise(ends)
    return [(float(s), a, max(b - a, 0.1)) for s, (a, b) in zip(steps, pairs, strict=True)]


def _slice(start: float, width: float, top: float, bottom: float) -> str:
    return (
        f'<rect class="slice" x="{start:g}" y="{top:g}" width="{width:.4g}" '
        f'height="{bottom - top:g}"/>'
    )


def candidates_chart(
    title: str,
    predicted_ms: Sequence[float | None],
    measured: Sequence[Interval],
    budget_ms: float | None,
) -> Html:
    """Predicted and measured latency of the candidates, in the order of measuring."""
    known = [value for value in predicted_ms if value is not None]
    ends = [end for m in measured for end in (m.value_ms, m.low_ms, m.high_ms)]
    budget = [] if budget_ms is None else [budget_ms]
    y = Axis.over([*known, *ends, *budget], BOTTOM, TOP)
    x = Axis(0.5, len(measured) + 0.5, LEFT, RIGHT)
    parts = [_axes(x, y, "candidate", "latency, ms", whole_x=True), _budget_line(y, budget_ms)]
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
    title: str, points: Sequence[RunPoint], front: Sequence[int], metric: str, *, budgets: bool
) -> Html:
    """Score in percent against measured latency, a point for each run.

    Args:
        title: for those who cannot see the chart.
        points: at least one.
        front: those that no other beats, by latency; a line of steps leads along them.
        metric: name of the score.
        budgets: whether dashed lines show the runs' budgets.
    """
    ends = [
        end for p in points for end in (p.measured.value_ms, p.measured.low_ms, p.measured.high_ms)
    ]
    # A budget that is far away would push all points into a corner.
    near = [budgets and is_near(point.budget_ms, max(ends)) for point in points]
    limits = [p.budget_ms or 0.0 for p, shown in zip(points, near, strict=True) if shown]
    x = Axis.over([*ends, *limits], LEFT, RIGHT, margin=0.08)
    y = Axis.over([100 * p.score for p in points], BOTTOM, TOP, margin=0.18)
    centres = [(x(p.measured.value_ms), y(100 * p.score)) for p in points]
    parts = [_axes(x, y, "measured latency, ms", f"{metric}, %")]
    if len(front) > 1:
        steps = f"M{centres[front[0]][0]:g} {centres[front[0]][1]:g}"
        steps += "".join(f"H{centres[i][0]:g}V{centres[i][1]:g}" for i in front[1:])
        parts.append(f'<path class="front" d="{steps}"/>')
    taken: list[tuple[float, float]] = []
    for point, centre, shown in zip(points, centres, near, strict=True):
        shape = _label_beside(point.label, *centre, centres, taken)
        parts.append(_run_mark(point, x, centre, shape, point.budget_ms if shown else None))
    return svg_element(title, WIDTH, HEIGHT, parts)


def _run_mark(
    point: RunPoint, x: Axis, centre: tuple[float, float], label: str, budget_ms: float | None
) -> str:
    """A run's dot with its interval, and the line of its budget where that is to be drawn."""
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


def is_near(budget_ms: float | None, slowest_ms: float) -> bool:
    """Whether a budget fits on an axis of latencies and leaves them room."""
    return budget_ms is not None and 0 < budget_ms < 3 * slowest_ms


def _label_beside(
    label: str,
    x: float,
    y: float,
    centres: Sequence[tuple[float, float]],
    taken: list[tuple[float, float]],
) -> str:
    """A point's label where it covers neither points nor other labels, if there is such a place."""
    others = [c for c in centres if c != (x, y)] + taken
    places = [(x + dx, y + dy) for dx, dy in ((0, -16), (0, 17), (16, 0), (-16, 0), (14, -13))]

    def room(place: tuple[float, float]) -> float:
        inside = LEFT + 5 < place[0] < RIGHT - 5 and TOP < place[1] < BOTTOM
        distances = (max(abs(place[0] - ox), abs(place[1] - oy)) for ox, oy in others)
        return min([*distances, 14.0]) if inside else -1.0

    best = max(places, key=room)
    taken.append(best)
    return f'<text x="{best[0]:g}" y="{best[1] + 5:g}" text-anchor="middle">{text(label)}</text>'


def budget_chart(
    title: str, budget_ms: float, predicted_ms: float | None, measured: Interval
) -> Html:
    """Predicted and measured latency on one line with the budget, from 0."""
    known = [budget_ms, measured.value_ms, measured.high_ms, predicted_ms or 0.0]
    x = Axis.over(known, 18, 342, from_zero=True)
    bar, at = 44.0, x(budget_ms)
    # The word stands on the side where there is room.
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
    parts.append(mark(f"measured {measured.in_words('95 % interval ')}", interval, "s1"))
    description = f"budget {milliseconds(budget_ms)}, measured {milliseconds(measured.value_ms)}"
    return svg_element(title, WIDTH, 84, parts, description)


def shares_panel(
    title: str, options: Sequence[str], steps: Sequence[float], shares: np.ndarray
) -> Html:
    """How a choice's probabilities went: options as areas on top of each other, the first lowest.

    Args:
        title: for those who cannot see the drawing.
        options: names of the options.
        steps: (n,) in order.
        shares: (n, options), each row with a sum of 1.
    """
    kept = np.unique(
        np.linspace(0, len(steps) - 1, min(len(steps), PANEL_POINTS)).round().astype(int)
    )
    at, shares = np.asarray(steps, dtype=float)[kept], shares[kept]
    if len(at) == 1:
        at, shares = np.array([0.0, at[0]]), shares.repeat(2, axis=0)
    x = Axis.over(at.tolist(), 0, PANEL_WIDTH, margin=0.0)
    edges = PANEL_HEIGHT * (1 - np.pad(shares, ((0, 0), (1, 0))).cumsum(axis=1))
    parts = []
    for option in range(len(options)):
        below, above = (
            [f"{x(step):g},{edge:.1f}" for step, edge in zip(at, edges[:, i], strict=True)]
            for i in (option, option + 1)
        )
        area = f'<polygon class="area" points="{" ".join([*below, *reversed(above)])}"/>'
        parts.append(f'<g class="{series_class(option)}" data-series="{option}">{area}</g>')
    for (step, start, width), row in zip(_strips(x, at), shares, strict=True):
        order = np.argsort(-row, kind="stable")[:3]
        words = ", ".join(f"{options[o]} {percent(float(row[o]))}" for o in order)
        shape = _slice(start, width, 0.0, PANEL_HEIGHT)
        parts.append(mark(f"step {round(step):,}: {words}", shape))
    return svg_element(title, PANEL_WIDTH, PANEL_HEIGHT, parts)


def _axes(x: Axis, y: Axis, x_label: str, y_label: str, *, whole_x: bool = False) -> str:
    """Both axes with their names, few ticks and a faint grid."""
    parts = [f'<text x="2" y="14">{text(y_label)}</text>']
    for value, label in y.ticks(5):
        parts.append(
            f'<path class="grid" d="M{LEFT:g} {y(value):g}H{RIGHT:g}"/>'
            f'<text x="{LEFT - 6:g}" y="{y(value) + 5:g}" text-anchor="end">{label}</text>'
        )
    for value, label in x.ticks(5, whole=whole_x):
        parts.append(
            f'<path class="grid" d="M{x(value):g} {TOP:g}V{BOTTOM:g}"/>'
            f'<text x="{x(value):g}" y="{BOTTOM + 18:g}" text-anchor="middle">{label}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT:g} {TOP:g}V{BOTTOM:g}H{RIGHT:g}"/>')
    parts.append(
        f'<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 6:g}" text-anchor="middle">'
        f"{text(x_label)}</text>"
    )
    return "".join(parts)


def _budget_line(y: Axis, budget_ms: float | None) -> str:
    if budget_ms is None:
        return ""
    return f'<path class="budget" d="M{LEFT:g} {y(budget_ms):g}H{RIGHT:g}"/>'
