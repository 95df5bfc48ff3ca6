"""Charts of an explanation: differences between networks, and a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.reporting.formatting import count, percent
from hwnas.reporting.html import Html
from hwnas.reporting.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axes,
    mark,
    svg_element,
)
from hwnas.reporting.theme import series_class


@dataclass(frozen=True)
class Point:
    """A point of a chart of differences.

    Attributes:
        x, y: the differences.
        words: what its mark says.
        series: number of the colour.
    """

    x: float
    y: float
    words: str
    series: int


def differences_chart(title: str, points: Sequence[Point], x_label: str, y_label: str) -> Html:
    """Points around an origin, which is marked by two lines.

    Args:
        title: label for screen readers.
        points: at least one.
        x_label: name of the horizontal axis, with its unit.
        y_label: name of the vertical axis, with its unit.
    """
    x = Axis.over([0.0, *(point.x for point in points)], LEFT, RIGHT)
    y = Axis.over([0.0, *(point.y for point in points)], BOTTOM, TOP)
    origin = f'<path class="budget" d="M{x(0):g} {TOP:g}V{BOTTOM:g}M{LEFT:g} {y(0):g}H{RIGHT:g}"/>'
    dots = [
        mark(
            point.words,
            f'<circle class="dot" cx="{x(point.x):g}" cy="{y(point.y):g}" r="4" '
            f'data-series="{point.series}"/>',
            series_class(point.series),
        )
        for point in points
    ]
    return svg_element(title, WIDTH, HEIGHT, [axes(x, y, x_label, y_label), origin, *dots])


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose confidence is in one bin; shares from 0 to 1."""

    samples: float
    confidence: float
    accuracy: float
    low: float
    high: float


def reliability_chart(title: str, bins: Sequence[ReliabilityBin]) -> Html:
    """Accuracy against confidence with intervals; a calibrated network is on the diagonal.

    Args:
        title: label for screen readers.
        bins: at least one.
    """
    x, y = Axis(0.0, 100.0, LEFT, RIGHT), Axis(0.0, 100.0, BOTTOM, TOP)
    most = max(one.samples for one in bins)
    parts = [
        axes(x, y, "confidence (%)", "accuracy (%)"),
        f'<path class="budget" d="M{LEFT:g} {BOTTOM:g}L{RIGHT:g} {TOP:g}"/>',
    ]
    for one in bins:
        at = x(100 * one.confidence)
        radius = 2.5 + 4.5 * (one.samples / most) ** 0.5
        words = (
            f"confidence {percent(one.confidence, 1)}: {percent(one.accuracy, 1)} of "
            f"{count(one.samples)} samples are right"
        )
        shape = (
            f'<path class="ring" d="M{at:g} {y(100 * one.low):g}V{y(100 * one.high):g}"/>'
            f'<circle class="dot" cx="{at:g}" cy="{y(100 * one.accuracy):g}" r="{radius:.3g}"/>'
        )
        parts.append(mark(words, shape, series_class(0)))
    return svg_element(title, WIDTH, HEIGHT, parts)
