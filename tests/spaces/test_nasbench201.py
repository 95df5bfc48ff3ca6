"""The NAS-Bench-201 space against the benchmark's own table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.budget.decode import params_and_macs_ranges
from hwnas.errors import InputError
from hwnas.spaces import build_space
from hwnas.spaces.nasbench201 import EDGES

# The first cell of the benchmark, with its published figures.
FIRST = (
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
    "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
)


def test_all_parameters_and_macs_are_the_published_ones(real_data) -> None:
    archive = np.load(real_data / "nasbench201.npz", allow_pickle=False)
    table = {name: archive[name] for name in ("ops", "params", "macs")}
    space = build_space("nasbench201", {})
    for index in range(len(table["ops"])):
        architecture = space.architecture([int(option) for option in table["ops"][index]])
        expected = (int(table["params"][index]), int(table["macs"][index]))
        assert space.params_and_macs(architecture) == expected
    ranges = tuple((table[name].min(), table[name].max()) for name in ("params", "macs"))
    assert params_and_macs_ranges(space) == ranges
    assert space.size() == len(table["ops"]) == 15_625


def test_golden_counts() -> None:
    space = build_space("nasbench201", {})
    assert space.params_and_macs(space.from_genotype(FIRST)) == (129_306, 15_647_360)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_genotype_round_trip(seed: int) -> None:
    space = tiny_space("nasbench201")
    architecture = space.sample(np.random.default_rng(seed))
    assert space.from_genotype(space.to_genotype(architecture)) == architecture


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="|+~0123nor_conv3x1skipavgpool", max_size=80))
def test_malformed_strings_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        tiny_space("nasbench201").from_genotype(text)


def paths_to_output(kept: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Edges on any path from node 0 to node 3, by walking all paths."""
    live: set[tuple[int, int]] = set()

    def walk(node: int, path: list[tuple[int, int]]) -> None:
        if node == 3:
            live.update(path)
        for edge in kept:
            if edge[0] == node:
                walk(edge[1], [*path, edge])

    walk(0, [])
    return live


def test_dead_edges_of_every_graph_do_not_run() -> None:
    space = tiny_space("nasbench201")
    for bits in range(2 ** len(EDGES)):
        chosen = [3 if bits >> row & 1 else 0 for row in range(len(EDGES))]
        architecture = space.architecture(chosen)
        kept = {edge for edge, option in zip(EDGES, chosen, strict=True) if option}
        live = {EDGES[row] for row in space.live_edges(architecture)}
        assert live == paths_to_output(kept)


def test_dropping_dead_edges_keeps_the_outputs() -> None:
    """A cell with an edge to a node that nobody reads computes what it computes without it."""
    space = tiny_space("nasbench201")
    with_dead = space.from_genotype(
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|nor_conv_3x3~1|none~2|"
    )
    without = space.from_genotype(
        "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|nor_conv_3x3~1|none~2|"
    )
    images = torch.randn(2, 1, 9, 7)
    torch.manual_seed(0)
    first = space.network(with_dead).eval()
    torch.manual_seed(0)
    second = space.network(without).eval()
    assert torch.equal(first(images), second(images))


def test_a_cell_without_live_edges_still_runs() -> None:
    space = tiny_space("nasbench201")
    network = space.network(space.architecture([0] * len(EDGES))).eval()
    assert network(torch.randn(2, 1, 9, 7)).shape == (2, 3)


def unique_string(architecture) -> str:
    """The string by which the paper's authors tell isomorphic cells, `get_unique_str`."""
    nodes = {0: "0"}
    for node in (1, 2, 3):
        terms = []
        for source in range(node):
            option = architecture[f"{source}>{node}"]
            if option == "none" or nodes[source] == "#":
                terms.append("#")
            else:
                is_skip = option == "skip_connect"
                terms.append(nodes[source] if is_skip else f"({nodes[source]})@{option}")
        nodes[node] = "+".join(sorted(terms))
    return nodes[3]


@pytest.mark.slow
def test_isomorphic_cells_have_one_identity() -> None:
    """The paper counts 6,466 cells that are not isomorphic; equal ones have equal identities."""
    space = tiny_space("nasbench201")
    identities: dict[str, set[str]] = {}
    for chosen in itertools.product(range(5), repeat=6):
        architecture = space.architecture(list(chosen))
        found = identities.setdefault(unique_string(architecture), set())
        found.add(space.identity(architecture))
    assert len(identities) == 6466
    assert all(len(found) == 1 for found in identities.values())


def test_cells_of_one_identity_compute_the_same() -> None:
    """The nodes in the other order, and what a dead edge or a skip connection leaves open."""
    space = tiny_space("nasbench201")
    pairs = [
        ([3, 2, 0, 0, 4, 2], [2, 3, 0, 0, 2, 4]),
        ([0, 2, 3, 1, 4, 2], [0, 2, 0, 1, 0, 2]),
        ([1, 0, 3, 0, 2, 4], [1, 3, 0, 0, 2, 4]),
    ]
    for chosen in pairs:
        first, second = (space.architecture(list(options)) for options in chosen)
        assert space.identity(first) == space.identity(second)
        networks = [space.network(architecture).eval() for architecture in (first, second)]
        for network in networks:
            for parameter in network.parameters():
                torch.nn.init.constant_(parameter, 0.3)
        images = torch.randn(2, 1, 9, 7)
        torch.testing.assert_close(networks[0](images), networks[1](images))
    different = space.architecture([3, 2, 0, 0, 4, 2]), space.architecture([3, 2, 0, 0, 2, 4])
    assert space.identity(different[0]) != space.identity(different[1])
