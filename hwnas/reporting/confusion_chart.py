"""The confusion matrix of a classifier as SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.reporting.formatting import count, percent
from hwnas.reporting.html import Html, text
from hwnas.reporting.svg import WIDTH, mark, svg_element

MAX_CLASSES = 25
"""Classes of the largest matrix that is drawn; the squares of a larger one would be specks."""
MAX_NAMED = 12
"""Up to so many classes, the drawing has their names and percentages."""
LETTERS = 12
"""Letters of a class name that fit beside the matrix."""
LETTER = 8.0
"""Width of a letter, at most."""
LABELS, TOP, RIGHT = 104.0, 22.0, 356.0
LARGEST = 44.0
"""Largest side of a square."""
STRONGEST = 0.6
"""Opacity of a square with all samples of its row; numbers are legible on it in both themes."""


def confusion_chart(title: str, classes: Sequence[str], counts: np.ndarray) -> Html:
    """The number of samples by class and predicted class, as squares of different strength.

    Args:
        title: label for screen readers.
        classes: names of the K classes, at least one.
        counts: (K, K); rows are the classes, columns the predicted classes.
    """
    named = len(classes) <= MAX_NAMED
    left = LABELS if named else 24.0
    side = min(LARGEST, (RIGHT - left) / len(classes))
    right = left + side * len(classes)
    bottom = TOP + side * len(classes)
    parts = [
        f'<text x="2" y="14">class</text><text x="{left:g}" y="14">predicted class</text>',
        f'<rect class="frame" x="{left:g}" y="{TOP:g}" width="{right - left:.4g}" '
        f'height="{bottom - TOP:.4g}"/>',
    ]
    for row, name in enumerate(classes):
        if named:
            parts.append(
                _names(name, left, TOP + (row + 0.5) * side, left + (row + 0.5) * side, bottom)
            )
        total = int(counts[row].sum())
        for column in np.flatnonzero(counts[row]):
            square = (left + column * side, TOP + row * side, side)
            share = counts[row, column] / total
            words = _words(classes, row, int(column), int(counts[row, column]), total)
            parts.append(
                mark(words, _square(square, share, named), "s0" if row == column else "s1")
            )
    longest = min(LETTERS, max(map(len, classes)))
    height = bottom + (LETTER * longest + 10 if named else 8.0)
    correct = int(np.trace(counts))
    description = f"{count(correct)} of {count(int(counts.sum()))} samples are on the diagonal."
    return svg_element(title, WIDTH, height, parts, description)


def _names(name: str, left: float, row: float, column: float, bottom: float) -> str:
    """The name of a class beside its row and, turned by a quarter, below its column."""
    short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}\u2026"
    x, y = column + 5, bottom + 6
    return (
        f'<text x="{left - 6:g}" y="{row + 5:.4g}" text-anchor="end">{text(short)}</text>'
        f'<text x="{x:.4g}" y="{y:.4g}" text-anchor="end" '
        f'transform="rotate(-90 {x:.4g} {y:.4g})">{text(short)}</text>'
    )


def _square(place: tuple[float, float, float], share: float, named: bool) -> str:
    """A square whose strength is a share, 0 to 1, with the percentage if `named`."""
    x, y, side = place
    shape = (
        f'<rect class="square" x="{x:.4g}" y="{y:.4g}" width="{side:.4g}" height="{side:.4g}" '
        f'fill-opacity="{0.06 + (STRONGEST - 0.06) * share:.2f}"/>'
    )
    if not named:
        return shape
    return shape + (
        f'<text class="small" x="{x + side / 2:.4g}" y="{y + side / 2 + 4:.4g}" '
        f'text-anchor="middle">{100 * share:.0f}</text>'
    )


def _words(classes: Sequence[str], row: int, column: int, found: int, total: int) -> str:
    share = f"{count(found)} of {count(total)} ({percent(found / total)})"
    if row == column:
        return f"{classes[row]}: {share} correct"
    return f"{classes[row]} taken for {classes[column]}: {share}"
