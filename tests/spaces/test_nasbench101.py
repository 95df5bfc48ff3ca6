"""NAS-Bench-101's space against its paper, its published figures, and brute force."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from helpers.counts import counts_of
from helpers.tiny import tiny_space

from hwnas.architecture import Mixture
from hwnas.budget.decode import params_and_macs_ranges, smallest_and_largest
from hwnas.errors import InputError
from hwnas.spaces import build_space
from hwnas.spaces.nasbench101_graphs import OPERATORS, Graph, full_graphs
from hwnas.spaces.sharing import SharedSupernet

CONV3, CONV1, POOL = OPERATORS
# The cell like Inception's of the benchmark's README, with its number of parameters.
INCEPTION = {
    "matrix": [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    "ops": ["input", CONV1, CONV3, CONV3, CONV3, POOL, "output"],
}
UNIQUE = {2: 1, 3: 6, 4: 84, 5: 2441, 6: 62010, 7: 359082}
"""Classes of isomorphic graphs by vertices; their sum is the published 423,624."""


def isomorphism_class(graph: Graph) -> tuple:
    """The smallest of all orders of a graph's inner vertices."""
    size = len(graph.matrix)
    found = []
    for inner in itertools.permutations(range(1, size - 1)):
        order = (0, *inner, size - 1)
        matrix = tuple(graph.matrix[s][t] for s in order for t in order)
        found.append((matrix, tuple(graph.operators[v - 1] for v in inner)))
    return min(found)


@pytest.mark.parametrize("vertices", [2, 3, 4, 5, pytest.param(6, marks=pytest.mark.slow)])
def test_hashes_are_equal_exactly_for_isomorphic_graphs(vertices) -> None:
    graphs = list(full_graphs(vertices, 9))
    pairs = {(graph.hash(), isomorphism_class(graph)) for graph in graphs}
    assert len({h for h, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    assert len(pairs) == UNIQUE[vertices]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_there_are_as_many_unique_graphs_as_published() -> None:
    found = {v: len({graph.hash() for graph in full_graphs(v, 9)}) for v in range(2, 8)}
    assert found == UNIQUE
    assert sum(found.values()) == 423_624


def full_by_inclusion_and_exclusion(vertices: int, max_edges: int) -> int:
    """The number of graphs in which no vertex lacks an edge out of it or into it."""

    def subsets(items: list[int]):
        return itertools.chain(*(itertools.combinations(items, n) for n in range(len(items) + 1)))

    total = 0
    for no_source in subsets(list(range(1, vertices))):
        for no_target in subsets(list(range(vertices - 1))):
            free = sum(
                s not in no_target and t not in no_source for t in range(vertices) for s in range(t)
            )
            ways = sum(math.comb(free, edges) for edges in range(min(free, max_edges) + 1))
            total += (-1) ** (len(no_source) + len(no_target)) * ways
    return total


@pytest.mark.parametrize("vertices, max_edges", [(3, 2), (4, 9), (5, 6), (7, 9)])
def test_size_counts_all_full_graphs(vertices, max_edges) -> None:
    space = build_space("nasbench101", {"vertices": vertices, "max_edges": max_edges})
    expected = sum(
        full_by_inclusion_and_exclusion(v, max_edges) * 3 ** (v - 2) for v in range(2, vertices + 1)
    )
    assert space.size() == expected


def test_published_cell_has_its_parameters_and_its_hash() -> None:
    space = build_space("nasbench101")
    cell = space.from_genotype(INCEPTION)
    assert space.params_and_macs(cell)[0] == 2_694_282
    assert space.identity(cell) == "28cfc7874f6d200472e1a9dcd8650aa0"
    assert space.to_genotype(cell) == INCEPTION


def test_the_smallest_and_the_largest_network_have_the_published_parameters() -> None:
    """Ying et al., section 3.2: from 227,274 to 49,979,274."""
    params, _ = params_and_macs_ranges(build_space("nasbench101"))
    assert params == (227_274, 49_979_274)


@pytest.mark.parametrize(
    "matrix, width, channels",
    [
        # Three concatenated vertices share 128 channels.
        ([[0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5], 128,
         [43, 43, 42]),
        # The first vertex leads to the third alone, and takes its channels.
        ([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5], 129,
         [64, 65, 64]),
        # The first one leads to both, and takes those of the wider.
        ([[0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5], 129,
         [65, 65, 64]),
    ],
)  # fmt: skip
def test_channels_are_divided_as_in_the_paper(matrix, width, channels) -> None:
    assert Graph(tuple(map(tuple, matrix)), (CONV3,) * 3).channels(width) == channels


def test_counts_are_those_of_networks(rng) -> None:
    for space in (tiny_space("nasbench101"), tiny_space("nasbench101", vertices=6, channels=11)):
        for _ in range(4):
            architecture = space.sample(rng)
            counted = counts_of(space.network(architecture), torch.zeros(1, 1, 9, 7))
            assert space.params_and_macs(architecture) == counted


def architectures_of(space) -> list:
    """All architectures, found by trying every edge and operator."""
    found = set()
    edges = [c.name for c in space.choices if ">" in c.name]
    vertices = [c.name for c in space.choices if ">" not in c.name]
    for bits in itertools.product(("none", "edge"), repeat=len(edges)):
        taken = dict(zip(edges, bits, strict=True))
        for operators in itertools.product(OPERATORS, repeat=len(vertices)):
            try:
                found.add(space.architecture(taken | dict(zip(vertices, operators, strict=True))))
            except InputError:
                continue
    return sorted(found, key=lambda a: a.options)


def test_expected_parts_are_those_of_the_enumerated_distribution() -> None:
    space = tiny_space("nasbench101")
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(space.mask.shape, generator=generator, dtype=torch.float64) * space.mask
    odds = weights / weights.sum(dim=1, keepdim=True)
    every = architectures_of(space)
    assert len(every) == space.size()
    total, expected = 0.0, torch.zeros(len(space.choices), space.max_parts, dtype=torch.float64)
    for architecture in every:
        chosen = space.chosen(architecture)
        deciding = [row for row in range(len(chosen)) if row not in space.idle(chosen)]
        probability = odds[deciding, [chosen[row] for row in deciding]].prod()
        one_hot = space.one_hot(architecture).weights.double()
        expected += probability * space.run_probability(one_hot)
        total += float(probability)
    torch.testing.assert_close(space.run_probability(weights), expected / total, rtol=1e-6, atol=0)


def test_the_decoder_finds_the_smallest_and_the_largest_of_all() -> None:
    space = tiny_space("nasbench101", vertices=4, max_edges=5, channels=7)
    macs = [space.params_and_macs(architecture)[1] for architecture in architectures_of(space)]
    found = [space.params_and_macs(a)[1] for a in smallest_and_largest(space)]
    assert found == [min(macs), max(macs)]


@pytest.mark.parametrize("training", [False, True])
def test_a_network_inherits_what_the_supernet_computes(rng, training) -> None:
    tiny = tiny_space("nasbench101")
    wide = tiny_space("nasbench101", vertices=7, channels=11)
    for space, cells in (
        (tiny, architectures_of(tiny)[::9]),
        (wide, [wide.sample(rng) for _ in range(3)]),
    ):
        supernet = space.supernet().double().train(training)
        assert isinstance(supernet, SharedSupernet)
        x = torch.randn(4, 1, 9, 7, dtype=torch.float64)
        for architecture in cells:
            network = space.network(architecture).double().train(training)
            network.load_state_dict(supernet.weights_of(architecture))
            found = supernet(x, space.one_hot(architecture))
            torch.testing.assert_close(found, network(x))


def test_edges_that_were_drawn_one_by_one_are_taken_for_the_nearest_graphs() -> None:
    """A hard sample of each edge is seldom a graph of the space."""
    space = tiny_space("nasbench101")
    weights = torch.zeros(space.mask.shape)
    weights[:, 0] = 1.0
    # Only 0>1, which leads nowhere: nearest are 0>1>3 and 0>3, one edge away or two.
    weights[0] = torch.tensor([0.0, 1.0, 0.0])
    weights.requires_grad_()
    mixture = Mixture(weights, tuple((int(row.argmax()),) for row in weights))
    parts = space.run_probability(weights)
    first = [name for name in space.parts[0] if name.startswith("projection")]
    assert 0.5 < parts[0, : len(first)].sum() <= 1
    out = space.supernet()(torch.randn(2, 1, 9, 7), mixture)
    (out.square().sum() + parts.sum()).backward()
    assert torch.isfinite(out).all()
    assert weights.grad is not None
    assert torch.isfinite(weights.grad).all()


def test_mutation_and_crossover_stay_in_the_space(rng) -> None:
    space = build_space("nasbench101")
    first, second = space.sample(rng), space.sample(rng)
    sizes = set()
    for _ in range(60):
        other = space.mutate(first, rng)
        assert other != first
        space.validate(other)
        child = space.cross(other, second, rng)
        space.validate(child)
        sizes.add(len(space.graph(other).matrix))
        first = other
    assert len(sizes) > 2, "vertices come and go"


def test_graphs_are_pruned_and_read_in_naslib_s_numbers() -> None:
    space = build_space("nasbench101")
    dangling = {
        "matrix": [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
        "ops": ["input", POOL, CONV1, "output"],
    }
    pruned = {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", CONV1, "output"]}
    assert space.to_genotype(space.from_genotype(dangling)) == pruned
    # The matrix row by row; NASLib numbers input, output, maxpool3x3, conv1x1, conv3x3.
    numbers = [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 3, 1]
    assert space.to_genotype(space.from_genotype(numbers)) == pruned
    flat = [value for row in INCEPTION["matrix"] for value in row] + [0, 3, 4, 4, 4, 2, 1]
    assert space.to_genotype(space.from_genotype(json.loads(json.dumps(flat)))) == INCEPTION


@pytest.mark.parametrize(
    "genotype, words",
    [
        ("conv", "matrix and ops"),
        ({"matrix": [[0, 1], [0, 0]]}, "matrix and ops"),
        ({"matrix": [[0, 2], [0, 0]], "ops": ["input", "output"]}, "malformed"),
        ({"matrix": [[0, 1], [1, 0]], "ops": ["input", "output"]}, "malformed"),
        ({"matrix": [[0, 1]], "ops": ["input", "output"]}, "malformed"),
        ({"matrix": 3, "ops": ["input", "output"]}, "malformed"),
        ({"matrix": [[0, 0], [0, 0]], "ops": ["input", "output"]}, "a path"),
        ({"matrix": [[0, 1], [0, 0]], "ops": ["output", "input"]}, "unknown operator"),
        ({"matrix": INCEPTION["matrix"], "ops": ["input", *["zero"] * 5, "output"]}, "unknown"),
        ({"matrix": [[0, 1], [0, 0]], "ops": 7}, "malformed"),
        ({"matrix": np.triu(np.ones((7, 7), int), 1).tolist(), "ops": INCEPTION["ops"]}, "9 edges"),
        ([0, 1, 0, 0, 0], "numbers"),
        ([0, 1, 0, 0, 0, 7], "numbers"),
        ([0, True, 0, 0, 0, 1], "numbers"),
        ([], "numbers"),
    ],
)
def test_malformed_genotypes_are_refused(genotype, words) -> None:
    with pytest.raises(InputError, match=words):
        build_space("nasbench101").from_genotype(genotype)


def test_architectures_outside_the_space_are_refused(rng) -> None:
    space = tiny_space("nasbench101")
    none = {c.name: c.options[0] for c in space.choices}
    for edges, words in (
        ((), "number of edges"),
        (("0>1",), "no path"),
        (("1>3",), "no path"),
        (("0>2", "2>3"), "left out"),
    ):
        with pytest.raises(InputError, match=words):
            space.architecture(none | dict.fromkeys(edges, "edge"))
    with pytest.raises(InputError, match="no edges"):
        space.architecture(none | {"0>3": "edge", "vertex2": POOL})
