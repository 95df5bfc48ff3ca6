"""Selection of the networks to measure."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.limit import Limit
from hwnas.calibration.design import (
    REGION,
    design,
    homogeneous,
    joint_covariance,
    most_informative,
)
from hwnas.calibration.prior import from_counts, from_devices, from_table
from hwnas.latency_tables.shipped import calibrated_for
from hwnas.spaces import SPACES, build_space


@pytest.mark.parametrize("name", sorted(SPACES))
def test_homogeneous_networks_use_a_single_option(name: str) -> None:
    space = tiny_space(name)
    networks = homogeneous(space)
    assert len(networks) == len(set(networks)) >= len(space.choices[0].options) - 1
    for network in networks:
        assert any(
            {network[c.name] for c in space.choices if option in c.options} <= {option, "none"}
            for option in set(dict(network).values())
        )


def test_design_is_seeded_begins_with_homogeneous_cells_and_has_no_duplicates() -> None:
    space = build_space("nasbench201", {})
    prior = from_devices(space, calibrated_for("nasbench201"))
    networks = design(space, prior, 10)
    assert networks[:5] == homogeneous(space)
    assert len(set(networks)) == 10
    assert design(space, prior, 10) == networks
    assert design(space, prior, 10, seed=1)[5:] != networks[5:]
    assert design(space, prior, 3) == networks[:3]


def test_greedy_selection_matches_brute_force() -> None:
    """The posterior variance after each candidate is computed from scratch."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 4))
    covariance, noise = root @ root.T, 0.3
    taken = most_informative(covariance, noise, 3, targets=slice(12, None))
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


def test_first_networks_distinguish_the_edge_rules() -> None:
    """Some of them have very different latencies under different rules."""
    space = build_space("nasbench201", {})
    prior = from_devices(space, calibrated_for("nasbench201"))
    rules = joint_covariance(space, prior, design(space, prior, 10))
    within = prior.shares @ [component.covariance[0, 0] for component in prior.components]
    assert rules.diagonal().max() > 2 * within


def test_with_a_budget_all_networks_have_latencies_near_it() -> None:
    space = tiny_space("darts")
    table = table_of(space)
    cost = CostModel(space, table)
    prior = from_table(space, table)
    rng = np.random.default_rng(0)
    latencies = sorted(cost.latency_ms(space.sample(rng)) for _ in range(200))
    limit = Limit(cost, latencies[20])
    chosen = design(space, prior, 16, limit=limit)
    assert len(set(chosen)) == 16
    shares = [cost.latency_ms(network) / limit.budget_ms for network in chosen]
    assert REGION[0] <= min(shares) <= max(shares) <= REGION[1]


def test_design_works_without_any_table() -> None:
    space = tiny_space("nasbench201")
    assert len(design(space, from_counts(space), 7)) == 7
