"""The DARTS space against its published genotypes and brute force."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.ops import params_and_macs
from hwnas.spaces import build_space
from hwnas.spaces.darts_networks import PRIMITIVES

# Liu et al., ICLR 2019, the second-order cell ("DARTS_V2" in the authors' repository).
DARTS_V2 = {
    "normal": [
        ["sep_conv_3x3", 0], ["sep_conv_3x3", 1], ["sep_conv_3x3", 0], ["sep_conv_3x3", 1],
        ["sep_conv_3x3", 1], ["skip_connect", 0], ["skip_connect", 0], ["dil_conv_3x3", 2],
    ],
    "normal_concat": [2, 3, 4, 5],
    "reduce": [
        ["max_pool_3x3", 0], ["max_pool_3x3", 1], ["skip_connect", 2], ["max_pool_3x3", 1],
        ["max_pool_3x3", 0], ["skip_connect", 2], ["skip_connect", 2], ["max_pool_3x3", 1],
    ],
    "reduce_concat": [2, 3, 4, 5],
}  # fmt: skip


def test_published_cell_has_the_published_number_of_parameters() -> None:
    space = build_space("darts", {})
    params, macs = space.params_and_macs(space.from_genotype(DARTS_V2))
    # The authors' code prints 3.349342 MB for it; the paper rounds to 3.3 M.
    assert params == 3_349_342
    assert macs == 528_359_040


def test_the_space_has_the_size_that_the_paper_counts() -> None:
    """Section 3.1: pairs of inputs of four nodes, seven operators on each, two cells."""
    assert build_space("darts", {}).size() == (1 * 3 * 6 * 10 * 7**8) ** 2


def test_published_genotypes_have_the_reported_parameters(real_data) -> None:
    published = json.loads((real_data / "darts" / "published_genotypes.json").read_text())
    space = build_space("darts", {})
    checked = 0
    for genotype in published.values():
        reported = genotype.get("reported", {}).get("params_m")
        if reported is None or len(genotype["normal"]) != 8:
            continue
        params, _ = space.params_and_macs(space.from_genotype(genotype))
        # Papers round, and DARTS_V1's figure is that of the paper's table for both orders.
        assert params / 1e6 == pytest.approx(reported, abs=0.15)
        checked += 1
    assert checked >= 3


def test_counted_parameters_are_those_of_the_network(rng) -> None:
    space = tiny_space("darts")
    for _ in range(5):
        architecture = space.sample(rng)
        network = space.network(architecture)
        network.auxiliary = None
        counted = sum(p.numel() for p in network.parameters())
        assert space.params_and_macs(architecture)[0] == counted


def test_size_is_that_of_the_decoding_program() -> None:
    """With two nodes: all sets of kept edges that satisfy it, and 7 operators on each edge."""
    space = tiny_space("darts", nodes=2)
    program = space.decoding_program()
    sets = []
    for kept in itertools.product((0, 1), repeat=len(space.choices)):
        taken = torch.nn.functional.one_hot(torch.tensor(kept), len(PRIMITIVES)).flatten().numpy()
        sums = program.matrix @ taken
        if (program.lower <= sums).all() and (sums <= program.upper).all():
            sets.append(kept)
    assert space.size() == sum(7 ** sum(kept) for kept in sets) == (3 * 7**4) ** 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_genotype_round_trip(seed: int) -> None:
    space = tiny_space("darts")
    architecture = space.sample(np.random.default_rng(seed))
    genotype = json.loads(json.dumps(space.to_genotype(architecture)))
    assert space.from_genotype(genotype) == architecture


@pytest.mark.parametrize(
    "genotype",
    [
        None,
        [],
        {"normal": []},
        DARTS_V2 | {"normal": DARTS_V2["normal"][:7]},
        DARTS_V2 | {"normal": [["sep_conv_3x3", 0]] * 8},
        DARTS_V2 | {"reduce": [["no_such_op", 0], *DARTS_V2["reduce"][1:]]},
        DARTS_V2 | {"reduce": [["sep_conv_3x3", 9], *DARTS_V2["reduce"][1:]]},
        DARTS_V2 | {"normal_concat": [4, 5]},
    ],
)
def test_malformed_genotypes_are_refused(genotype) -> None:
    with pytest.raises(InputError):
        build_space("darts", {}).from_genotype(genotype)


@pytest.mark.parametrize("height,width", [(28, 28), (9, 7), (5, 11)])
def test_odd_sizes_run_and_halve_upwards(height: int, width: int, rng) -> None:
    space = tiny_space("darts", height=height, width=width)
    size = (height, width)
    for cell in space.cells:
        assert cell.size == size
        if cell.reduction:
            size = (-(-size[0] // 2), -(-size[1] // 2))
        assert cell.out_size == size
    network = space.network(space.sample(rng)).eval()
    assert network(torch.zeros(2, 1, height, width)).shape == (2, 3)


def test_auxiliary_head_trains_with_the_network(rng) -> None:
    network = tiny_space("darts").network(tiny_space("darts").sample(rng))
    logits, auxiliary = network.forward_with_auxiliary(torch.randn(4, 1, 9, 7))
    assert logits.shape == auxiliary.shape == (4, 3)
    auxiliary.sum().backward()
    assert network.stem.conv.weight.grad.abs().sum() > 0


def test_run_probability_is_that_of_the_enumerated_distribution() -> None:
    """Against the sum over all architectures of one node, weighted by products of weights."""
    space = tiny_space("darts")
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    found = space.run_probability(weights)
    rows = [
        i for i, c in enumerate(space.choices) if c.name.startswith("normal") and ">4" in c.name
    ]
    assert len(rows) == 4 - 1 + 1
    expected = torch.zeros(len(space.choices), len(PRIMITIVES), dtype=torch.float64)
    total = 0.0
    operators = range(1, len(PRIMITIVES))
    for e, f in itertools.combinations(rows, 2):
        for o, p in itertools.product(operators, operators):
            probability = weights[e, o] * weights[f, p]
            total += probability
            expected[e, o] += probability
            expected[f, p] += probability
    torch.testing.assert_close(found[rows], expected[rows] / total)


def test_equal_pools_on_one_input_are_paid_once_in_expectation() -> None:
    """Against the sum over all normal cells of two nodes, weighted by products of weights."""
    space = tiny_space("darts", nodes=2)
    generator = torch.Generator().manual_seed(4)
    weights = torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    found = space.run_probability(weights, "once")
    options = len(PRIMITIVES)
    expected = torch.zeros(5, options, dtype=torch.float64)
    total = 0.0
    for kept in itertools.combinations([2, 3, 4], 2):
        rows = [0, 1, *kept]
        for chosen in itertools.product(range(1, options), repeat=4):
            probability = float(weights[rows, list(chosen)].prod())
            total += probability
            seen = set()
            for row, option in zip(rows, chosen, strict=True):
                operator = (space.edges[row][0], option)
                if operator not in seen or "pool" not in PRIMITIVES[option]:
                    expected[row, option] += probability
                seen.add(operator)
    torch.testing.assert_close(found[:5], expected / total)


def test_only_edges_from_the_inputs_of_a_reduction_cell_have_stride_2() -> None:
    space = build_space("darts", {"cells": 3, "channels": 8})
    names = [choice.name for choice in space.choices]
    option = PRIMITIVES.index("sep_conv_3x3")
    from_input = space.operators(names.index("reduce/1>3"), option)
    from_node = space.operators(names.index("reduce/2>3"), option)
    assert {spec.stride for spec in from_input} == {2}
    assert {spec.stride for spec in from_node} == {1}
    # Two reduction cells, each at its own size.
    assert sum(from_input.values()) == sum(from_node.values()) == 2
    assert {params_and_macs(spec)[0] for spec in from_input} == {
        params_and_macs(spec)[0] for spec in from_node
    }


def test_validate_names_the_node_with_too_many_edges(rng) -> None:
    space = tiny_space("darts")
    chosen = dict(space.sample(rng).options) | {f"normal/{i}>5": "skip_connect" for i in range(3)}
    with pytest.raises(InputError, match="node 5.*expected 2"):
        space.architecture(chosen)
