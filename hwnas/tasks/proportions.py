"""Confidence intervals of shares, such as the accuracy on a number of test samples."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a probability by Wilson's score method.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927. The
    interval describes how far the share could differ on other samples of the same kind; it does not
    include the variation between trainings.

    Args:
        share: observed share, 0 to 1.
        samples: number of independent samples, at least 1.

    Returns:
        Lower and upper end, 0 to 1.
    """
    weight = Z_95**2 / samples
    centre = (share + weight / 2) / (1 + weight)
    spread = share * (1 - share) / samples + weight / (4 * samples)
    reach = Z_95 * math.sqrt(spread) / (1 + weight)
    # Rounding would leave 7e-18 in place of 0.
    low, high = max(0.0, centre - reach), min(1.0, centre + reach)
    return low if share else 0.0, high if share < 1 else 1.0
