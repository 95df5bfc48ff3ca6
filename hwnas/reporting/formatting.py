"""Numbers, units and metric names as readers of a report see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN = "not known"
NO_BREAK = "\u00a0"
"""The space between a number and its unit."""
DASH = "\u2013"
"""Stands for a value that does not apply."""
CONFIDENCE_INTERVAL = f"95{NO_BREAK}% confidence interval"
CI = f"95{NO_BREAK}%{NO_BREAK}CI"
"""Short form for the headers of tables."""

_ABBREVIATIONS = {"iou": "IoU", "f1": "F1", "r2": "R2", "roc": "ROC", "pr": "PR", "auc": "AUC"}


def number(value: float | None, digits: int = 4) -> str:
    """A number rounded to significant digits.

    Args:
        value: None gives `not known`.
        digits: significant digits. Values of 10**digits and more are rounded to whole numbers with
            thousands separators; an exponent is used only below 1e-4.
    """
    if value is None:
        return UNKNOWN
    if abs(value) >= 10**digits:
        return count(value)
    if 0 < abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    import numpy as np  # verdicts of refused files are written without it

    return np.format_float_positional(
        value, precision=digits, unique=False, fractional=False, trim="-"
    )


def gate_value(gate: Mapping[str, Any]) -> str:
    """The value of a gate of `check.json`; `-` where there is none.

    A value that missed its limit has as many digits as it takes to look different from it.
    """
    value, limit = gate["value"], gate["limit"]
    if value is None:
        return "-"
    digits = 4
    while limit not in (None, value) and number(value, digits) == number(limit, digits):
        digits += 1
    return number(value, digits)


def verdict_text(document: Mapping[str, Any]) -> str:
    """The verdict of a `check.json`, and what the check was not asked to judge.

    Only a model that passes has the latter: whatever was not judged might fail as well.
    """
    unknown = document.get("not_asked") or []
    if document["verdict"] != "pass" or not unknown:
        return str(document["verdict"])
    return f"pass ({', '.join(unknown)})"


def count(value: float | None) -> str:
    """A whole number with thousands separators, or `not known`."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def milliseconds(value_ms: float | None, digits: int = 4) -> str:
    """A latency with its unit, or `not known`."""
    return UNKNOWN if value_ms is None else f"{number(value_ms, digits)}{NO_BREAK}ms"


def percent(share: float | None, decimals: int = 2) -> str:
    """A share between 0 and 1 as a percentage, or `not known`.

    Args:
        share: None gives `not known`.
        decimals: digits after the decimal point, at most.
    """
    return UNKNOWN if share is None else f"{number(round(100 * share, decimals))}{NO_BREAK}%"


def decibels(value: float | None) -> str:
    """A ratio in decibels with its unit, or `not known`."""
    return UNKNOWN if value is None else f"{value:.1f}{NO_BREAK}dB"


def kibibytes(size_bytes: float | None) -> str:
    """The size of a file in KiB, or `not known`."""
    return UNKNOWN if size_bytes is None else f"{size_bytes / 1024:,.1f}{NO_BREAK}KiB"


def in_words(metric: str) -> str:
    """The readable name of a metric's key: `mean_iou` becomes `mean IoU`."""
    return " ".join(_ABBREVIATIONS.get(word, word) for word in metric.replace("_", " ").split())


def sentence_case(words: str) -> str:
    """The words with a capital first letter; all other letters stay as they are."""
    return words[:1].upper() + words[1:]
