"""Formats of single operators: the cost model, and the choice of least noise by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from helpers.small_models import residual_net
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.deploy.format_choice import (
    Costs,
    FormatCosts,
    Layers,
    fastest_within,
    fit_costs,
    frontier,
    layers_of,
    least_noise,
)
from hwnas.deploy.mixed_precision import designs_of
from hwnas.deploy.sensitivity import named_nodes

CHAIN = Layers(
    tuple("abcde"), np.array([True] * 4 + [False]), ((0, 1), (1, 2), (1, 3), (2, 3), (3, 4)), {}
)


def chain_of(*operators: str) -> onnx.ModelProto:
    """A model of operators one after the other, Conv with weights; nodes are named by position."""
    nodes = [
        onnx.helper.make_node(
            kind, [f"x{i}", *(["w"] if kind == "Conv" else [])], [f"x{i + 1}"], f"{i}"
        )
        for i, kind in enumerate(operators)
    ]
    value = onnx.helper.make_tensor_value_info
    ends = [value(f"x{i}", onnx.TensorProto.FLOAT, None) for i in (0, len(operators))]
    weights = onnx.numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
    return onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], [weights])
    )


def test_neighbours_are_found_through_other_operators() -> None:
    model = chain_of("Relu", "Conv", "Relu", "MaxPool", "Conv", "Conv", "Relu")
    layers = layers_of(model, ["1", "4"])
    assert layers.names == ("1", "4", "5")
    assert layers.free.tolist() == [True, True, False]
    assert layers.neighbours == ((0, 1), (1, 2))
    assert {name: set(beside) for name, beside in layers.others.items()} == {
        "0": {0}, "2": {0, 1}, "3": {0, 1}, "6": {2},
    }  # fmt: skip
    assert set(layers.float32_nodes(np.array([True, False, False]))) == {"4", "5", "2", "3", "6"}
    assert set(layers.float32_nodes(np.array([True, True, False]))) == {"5", "6"}


def test_a_sum_is_quantised_with_all_that_it_joins() -> None:
    model = named_nodes(residual_net())
    layers = layers_of(model, [n.name for n in model.graph.node])
    *_, total = [node.name for node in model.graph.node if node.op_type == "Add"]
    assert len(layers.others[total]) >= 3
    one = np.ones(len(layers.names), bool)
    one[min(layers.others[total])] = False
    assert total in layers.float32_nodes(one)


def test_costs_are_those_of_the_models_that_were_measured() -> None:
    rng = np.random.default_rng(0)
    truth = Costs(rng.normal(-0.05, 0.05, 5), rng.normal(-0.02, 0.01, 5))
    truth.single[4] = truth.pairs[4] = 0.0  # never quantised
    designs = designs_of(CHAIN, rng)
    assert not designs[:, 4].any()
    assert designs.any(axis=1).all()
    ratios = np.array([truth.ratio(CHAIN, one) for one in designs])
    found = fit_costs(CHAIN, designs, ratios)
    for chosen in itertools.product((False, True), repeat=4):
        one = np.array([*chosen, False])
        assert found.ratio(CHAIN, one) == pytest.approx(truth.ratio(CHAIN, one), abs=2e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.2))
def test_the_choice_has_the_least_noise_within_the_latency(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    costs = Costs(rng.normal(-0.05, 0.1, 5), rng.normal(-0.03, 0.05, 5))
    noise = rng.uniform(0.1, 1.0, 5)
    every = [np.array([*one, False]) for one in itertools.product((False, True), repeat=4)]
    kept = [one for one in every if costs.ratio(CHAIN, one) <= limit]
    found = least_noise(FormatCosts(CHAIN, costs, noise), limit)
    if not kept:
        assert found is None
        return
    assert found is not None
    assert costs.ratio(CHAIN, found) <= limit + 1e-6
    assert noise[found].sum() == pytest.approx(min(noise[one].sum() for one in kept), abs=1e-6)
    choices = frontier(FormatCosts(CHAIN, costs, noise))
    fastest = min(costs.ratio(CHAIN, one) for one in every)
    assert bool(choices) == (fastest < 1)
    if choices:
        assert costs.ratio(CHAIN, choices[0]) == pytest.approx(fastest, abs=1e-6)
        noises = [noise[one].sum() for one in choices]
        assert noises == sorted(noises, reverse=True)
        assert all(costs.ratio(CHAIN, one) < 1 for one in choices)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 3.0))
def test_the_fastest_choice_within_a_noise_is_found(seed: int, most: float) -> None:
    rng = np.random.default_rng(seed)
    costs = Costs(rng.normal(-0.05, 0.1, 5), rng.normal(-0.03, 0.05, 5))
    formats = FormatCosts(CHAIN, costs, rng.uniform(0.1, 1.0, 5), ("z",))
    every = [np.array([*one, False]) for one in itertools.product((False, True), repeat=4)]
    kept = [one for one in every if formats.noise[one].sum() <= most]
    found = fastest_within(formats, most)
    assert formats.noise[found].sum() <= most * (1 + 1e-6)
    least = min(costs.ratio(CHAIN, one) for one in kept)
    assert costs.ratio(CHAIN, found) == pytest.approx(least, abs=1e-6)
    described = formats.choice(found)
    assert described.float32[0] == "z" and described.layers == (found.sum(), 5)
    assert described.predicted_ratio == pytest.approx(least, abs=1e-6)
