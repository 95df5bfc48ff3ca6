"""Parts that all SVG charts share: the drawing itself, axes, interactive marks, budget lines.

A mark is a group of class `mark` that holds a title with the values and the shape that a pointer
hovers over. Browsers show titles without scripts; the page's script also shows them when readers
use the arrow keys. Charts are 360 units wide with text of 14 units, so that they are legible on a
phone. Colours are CSS classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.reporting.html import Html, text

WIDTH, HEIGHT = 360.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 338.0, 24.0, 190.0
"""The plotting area of a chart with two axes."""


@dataclass(frozen=True)
class Axis:
    """A linear scale that maps values to positions in the drawing.

    Attributes:
        low, high: values at the two ends.
        start, end: positions of the two ends.
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
        """An axis that includes all values.

        Args:
            values: at least one.
            start: position of the low end.
            end: position of the high end.
            margin: free space at each end, as a share of the values' range.
            from_zero: whether the axis includes 0; without free space below a low end of 0.
        """
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
        """The position of a value, rounded to a tenth of a unit."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, max_steps: int = 5, *, whole: bool = False) -> list[tuple[float, str]]:
        """Round values on the axis, each with its label.

        Args:
            max_steps: at most so many steps of a tick fit on the axis.
            whole: whether only whole numbers are labelled.
        """
        rough = (self.high - self.low) / max_steps
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        if whole:
            step = max(1.0, step)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        plain = max(abs(self.low), abs(self.high)) < 1e5 and decimals <= 5
        values = [i * step for i in range(first, min(last, first + 2 * max_steps) + 1)]
        return [(v, f"{v:.{decimals}f}" if plain else f"{v:.3g}") for v in values]


def svg_element(
    title: str, width: float, height: float, parts: Sequence[str], description: str = ""
) -> Html:
    """An SVG that scales to the available width.

    Args:
        title: label for screen readers.
        width: width of the coordinate system.
        height: height of the coordinate system.
        parts: shapes as markup.
        description: longer text for screen readers.
    """
    described = f"<desc>{text(description)}</desc>" if description else ""
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{text(title)}">{described}{"".join(parts)}</svg>'
    )


def mark(title: str, shape: str, css_class: str = "") -> str:
    """A shape that shows its title when the pointer is over it."""
    return f'<g class="mark {css_class}"><title>{text(title)}</title>{shape}</g>'


def nearest_strips(x: Axis, steps: np.ndarray) -> list[tuple[float, float, float]]:
    """Divide the axis into vertical strips, one for each step, with borders half-way between them.

    Args:
        x: the horizontal axis.
        steps: (n,) in increasing order.

    Returns:
        (step, left edge, width) of each strip.
    """
    centres = [x(step) for step in steps]
    borders = [x.start, *((a + b) / 2 for a, b in itertools.pairwise(centres)), x.end]
    pairs = itertools.pairwise(borders)
    return [(float(s), a, max(b - a, 0.1)) for s, (a, b) in zip(steps, pairs, strict=True)]


def strip_shape(left: float, width: float, top: float, bottom: float) -> str:
    """The rectangle of a strip, which is visible only while its mark is active."""
    return (
        f'<rect class="slice" x="{left:g}" y="{top:g}" width="{width:.4g}" '
        f'height="{bottom - top:g}"/>'
    )


def axes(x: Axis, y: Axis, x_label: str, y_label: str, *, whole_x: bool = False) -> str:
    """Both axes with labels, ticks and grid lines.

    Args:
        x: the horizontal axis.
        y: the vertical axis.
        x_label: name of the horizontal axis, with its unit.
        y_label: name of the vertical axis, with its unit.
        whole_x: whether ticks of the horizontal axis are whole numbers.
    """
    parts = [f'<text x="2" y="14">{text(y_label)}</text>']
    parts += [
        f'<path class="grid" d="M{LEFT:g} {y(value):g}H{RIGHT:g}"/>'
        f'<text x="{LEFT - 6:g}" y="{y(value) + 5:g}" text-anchor="end">{label}</text>'
        for value, label in y.ticks(5)
    ]
    parts += [
        f'<path class="grid" d="M{x(value):g} {TOP:g}V{BOTTOM:g}"/>'
        f'<text x="{x(value):g}" y="{BOTTOM + 18:g}" text-anchor="middle">{label}</text>'
        for value, label in x.ticks(5, whole=whole_x)
    ]
    parts.append(f'<path class="axis" d="M{LEFT:g} {TOP:g}V{BOTTOM:g}H{RIGHT:g}"/>')
    parts.append(
        f'<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 6:g}" text-anchor="middle">'
        f"{text(x_label)}</text>"
    )
    return "".join(parts)


def budget_line(y: Axis, budget_ms: float | None) -> str:
    """A dashed horizontal line at the budget; empty without a budget."""
    if budget_ms is None:
        return ""
    return f'<path class="budget" d="M{LEFT:g} {y(budget_ms):g}H{RIGHT:g}"/>'


def is_near(budget_ms: float | None, slowest_ms: float) -> bool:
    """Whether an axis can show the budget without compressing the latencies too much."""
    return budget_ms is not None and 0 < budget_ms < 3 * slowest_ms
