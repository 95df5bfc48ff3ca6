"""Which networks are proposed for measuring."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.limit import Limit
from hwnas.calibration.design import design, homogeneous, joint_covariance, most_telling
from hwnas.calibration.prior import from_counts, from_devices, from_table
from hwnas.latency_tables.shipped import calibrated_for
from hwnas.spaces import SPACES, build_space


@pytest.mark.parametrize("name", sorted(SPACES))
def test_homogeneous_networks_take_one_option_wherever_they_can(name: str) -> None:
    space = tiny_space(name)
    networks = homogeneous(space)
    assert len(networks) == len(set(networks)) >= len(space.choices[0].options) - 1
    for network in networks:
        assert any(
            {network[c.name] for c in space.choices if option in c.options} <= {option, "none"}
            for option in set(dict(network).values())
        )


def test_benchmark_cells_come_first_and_all_differ() -> None:
    space = build_space("nasbench201", {})
    prior = from_devices(space, calibrated_for("nasbench201"))
    networks = design(space, prior, 10)
    assert networks[:5] == homogeneous(space)
    assert len(set(networks)) == 10
    assert design(space, prior, 10) == networks
    assert design(space, prior, 10, seed=1)[5:] != networks[5:]
    assert design(space, prior, 3) == networks[:3]


def test_each_step_lowers_the_variance_most() -> None:
    """Against the posterior variance of every candidate, computed from scratch."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 4))
    covariance, noise = root @ root.T, 0.3
    taken = most_telling(covariance, noise, 3, targets=slice(12, None))
    chosen: list[int] = []
    for step in range(3):
        left = []
        for candidate in range(12):
            some = [*chosen, candidate]
            inner = covariance[np.ix_(some, some)] + noise**2 * np.eye(len(some))
            shared = covariance[12:][:, some]
            explained = np.einsum("ij,jk,ik->i", shared, np.linalg.inv(inner), shared)
            left.append(np.inf if candidate in chosen else -explained.sum())
        chosen.append(int(np.argmin(left)))
        assert taken[: step + 1] == chosen


def test_some_networks_tell_the_rules_apart() -> None:
    """Among the first designed ones are cells whose rules run different edges."""
    space = build_space("nasbench201", {})
    prior = from_devices(space, calibrated_for("nasbench201"))
    rules = joint_covariance(space, prior, design(space, prior, 10))
    within = prior.shares @ [component.covariance[0, 0] for component in prior.components]
    assert rules.diagonal().max() > 2 * within


def test_a_budget_moves_the_design_to_its_region() -> None:
    space = tiny_space("darts")
    table = table_of(space)
    cost = CostModel(space, table)
    prior = from_table(space, table)
    rng = np.random.default_rng(0)
    latencies = sorted(cost.latency_ms(space.sample(rng)) for _ in range(200))
    limit = Limit(cost, latencies[20])
    without = design(space, prior, 16)
    within = design(space, prior, 16, limit=limit)
    assert within != without
    assert len(set(within)) == 16


def test_no_table_is_needed() -> None:
    space = tiny_space("nasbench201")
    assert len(design(space, from_counts(space), 7)) == 7
