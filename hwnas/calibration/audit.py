"""Audit of a latency table on held-out networks, compared with simple proxies such as MACs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import Audit, Control, Repeatability
from hwnas.latency_tables.table import LatencyTable
from hwnas.spaces.base import SearchSpace

INTERVAL = NormalDist().inv_cdf(0.95)
"""Half-width of a 90 % interval in standard deviations."""
MIN_NETWORKS = 3


def audit(
    space: SearchSpace,
    table: LatencyTable,
    architectures: Sequence[Architecture],
    latency_ms: np.ndarray,
    again_ms: np.ndarray | None = None,
    members: dict[str, float] | None = None,
) -> Audit:
    """Compare the predictions of a table with measurements.

    Args:
        space: the search space at its deployed sizes.
        table: latency table of the device on which the networks were measured.
        architectures: measured networks that were not used for the calibration.
        latency_ms: (architectures,) measured latencies.
        again_ms: (architectures,) latencies of the same networks, measured again in another
            process.
        members: of a pool, for each device the ratio of its latencies to those of all devices.

    Raises:
        InputError: there are too few networks.
    """
    if len(architectures) < MIN_NETWORKS:
        raise InputError(
            "too few networks for an audit",
            expected=f"at least {MIN_NETWORKS}",
            actual=len(architectures),
        )
    expected_ms, std_ms = CostModel(space, table).predict(architectures)
    counts = np.array([space.params_and_macs(a) for a in architectures], dtype=float)
    error = np.abs(expected_ms - latency_ms) / np.maximum(latency_ms, 1e-9)
    inside = np.abs(expected_ms - latency_ms) <= INTERVAL * std_ms
    order = rank_correlations(expected_ms, latency_ms)
    return Audit(
        networks=len(architectures),
        spearman=order.spearman,
        kendall=order.kendall,
        median_error=float(np.median(error)),
        p95_error=float(np.quantile(error, 0.95)),
        within_10_percent=float(np.mean(error <= 0.1)),
        within_90_interval=float(np.mean(inside)),
        macs=rank_correlations(counts[:, 1], latency_ms),
        params=rank_correlations(counts[:, 0], latency_ms),
        repeatability=None if again_ms is None else _repeatability(latency_ms, again_ms),
        members=members,
    )


def rank_correlations(predicted: np.ndarray, measured: np.ndarray) -> Control:
    """Return the rank correlation coefficients of Spearman and Kendall.

    They are 0 if all predicted or all measured values are equal.
    """
    # Imported here because it would double the start-up time of the command line.
    from scipy.stats import kendalltau, spearmanr

    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return Control(spearman=0.0, kendall=0.0)
    return Control(
        spearman=float(spearmanr(predicted, measured).statistic),
        kendall=float(kendalltau(predicted, measured).statistic),
    )


def _repeatability(first_ms: np.ndarray, second_ms: np.ndarray) -> Repeatability:
    difference = np.abs(second_ms / first_ms - 1)
    return Repeatability(
        networks=len(first_ms),
        median_difference=float(np.median(difference)),
        p95_difference=float(np.quantile(difference, 0.95)),
    )
