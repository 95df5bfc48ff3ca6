"""Values of a searched setting: drawn from its whole range, or around one that is thought good."""

from __future__ import annotations

import math

import numpy as np

from hwnas.config import RangeConfig
from hwnas.config.recipe import WHOLE


def drawn(
    one: RangeConfig, name: str, centre: float | None, deviation: float, rng: np.random.Generator
) -> float:
    """Draw a value of a setting.

    Args:
        one: what the setting can be.
        name: of the setting; some are whole numbers.
        centre: the middle of a normal distribution, or the option that is kept; None draws from
            the whole range.
        deviation: of the normal distribution as a share of the range, or of its logarithm where
            that is searched; of options, the probability to draw any of them anew.
        rng: source of the random numbers.
    """
    if one.options is not None:
        is_kept = centre is not None and rng.random() >= deviation
        return float(centre) if is_kept and centre is not None else float(rng.choice(one.options))
    assert one.low is not None and one.high is not None
    if centre is None:
        place = rng.uniform()
    else:
        place = _place(one, centre) + deviation * rng.standard_normal()
    low, high = (math.log(v) if one.log else v for v in (one.low, one.high))
    value = low + min(max(place, 0.0), 1.0) * (high - low)
    bounded = min(max(math.exp(value) if one.log else value, one.low), one.high)
    return float(round(bounded)) if name in WHOLE else bounded


def density(one: RangeConfig, value: float, centre: float | None, deviation: float) -> float:
    """How likely `drawn` finds a value, where 1 is drawing from the whole range.

    That draws are cut off at the ends of a range is left out.
    """
    if centre is None:
        return 1.0
    if one.options is not None:
        return deviation + (1 - deviation) * len(one.options) * (value == centre)
    deviations = distance(one, value, centre) / deviation
    return math.exp(-0.5 * deviations**2) / (deviation * math.sqrt(2 * math.pi))


def distance(one: RangeConfig, value: float, other: float) -> float:
    """How far two values are apart, as a share of the range; 1 for different options."""
    if one.options is not None:
        return float(value != other)
    return abs(_place(one, value) - _place(one, other))


def middle(one: RangeConfig, name: str) -> float:
    """The value in the middle of a range, or the first option."""
    if one.options is not None:
        return one.options[0]
    assert one.low is not None and one.high is not None
    value = math.sqrt(one.low * one.high) if one.log else (one.low + one.high) / 2
    return float(round(value)) if name in WHOLE else value


def _place(one: RangeConfig, value: float) -> float:
    """Where a value is in its range, from 0 to 1."""
    assert one.low is not None and one.high is not None
    low, high, at = (math.log(v) if one.log else v for v in (one.low, one.high, value))
    return (at - low) / (high - low)
