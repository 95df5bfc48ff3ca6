"""NASNet's space against the published cells and brute force."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from helpers.counts import counts_of
from helpers.tiny import tiny_space

from hwnas.budget.decode import smallest_and_largest
from hwnas.errors import InputError
from hwnas.spaces import build_space
from hwnas.spaces.nasnet import NasnetSpace

# Zoph et al., CVPR 2018, figure 4.
NASNET_A = {
    "normal": [
        ["sep_conv_5x5", 1], ["sep_conv_3x3", 0], ["sep_conv_5x5", 0], ["sep_conv_3x3", 0],
        ["avg_pool_3x3", 1], ["skip_connect", 0], ["avg_pool_3x3", 0], ["avg_pool_3x3", 0],
        ["sep_conv_3x3", 1], ["skip_connect", 1],
    ],
    "normal_concat": [0, 2, 3, 4, 5, 6],
    "reduce": [
        ["sep_conv_5x5", 1], ["sep_conv_7x7", 0], ["max_pool_3x3", 1], ["sep_conv_7x7", 0],
        ["avg_pool_3x3", 1], ["sep_conv_5x5", 0], ["skip_connect", 3], ["avg_pool_3x3", 2],
        ["sep_conv_3x3", 2], ["max_pool_3x3", 1],
    ],
    "reduce_concat": [4, 5, 6],
}  # fmt: skip
# Real et al., AAAI 2019, as the authors' code has it.
AMOEBANET_A = {
    "normal": [
        ["avg_pool_3x3", 1], ["max_pool_3x3", 1], ["sep_conv_3x3", 0], ["skip_connect", 0],
        ["skip_connect", 1], ["avg_pool_3x3", 0], ["sep_conv_3x3", 1], ["sep_conv_5x5", 2],
        ["avg_pool_3x3", 5], ["sep_conv_3x3", 1],
    ],
    "normal_concat": [0, 3, 4, 6],
    "reduce": [
        ["sep_conv_3x3", 0], ["avg_pool_3x3", 1], ["max_pool_3x3", 1], ["sep_conv_7x7", 2],
        ["max_pool_3x3", 0], ["max_pool_3x3", 1], ["sep_conv_3x3", 4], ["conv_1x7_7x1", 1],
        ["avg_pool_3x3", 0], ["sep_conv_7x7", 1],
    ],
    "reduce_concat": [2, 3, 4, 5, 6],
}  # fmt: skip
AMOEBANET = {"reduction_output": "all"}


@pytest.mark.parametrize(
    "options, genotype, millions",
    [
        ({}, NASNET_A, 3.3),
        (AMOEBANET | {"channels": 36}, AMOEBANET_A, 3.2),
        (AMOEBANET | {"channels": 32}, AMOEBANET_A, 2.6),
    ],
)
def test_published_cells_have_the_published_numbers_of_parameters(
    options, genotype, millions
) -> None:
    space = build_space("nasnet", options)
    architecture = space.from_genotype(genotype)
    params, _ = space.params_and_macs(architecture)
    assert round(params / 1e6, 1) == millions
    with torch.device("meta"):
        network = space.network(architecture)
    assert sum(p.numel() for p in network.parameters()) == params
    assert space.to_genotype(architecture) == genotype


@pytest.mark.parametrize(
    "options", [{}, AMOEBANET, {"keep_input": False, "blocks": 4}, {"cells": 2, "blocks": 1}]
)
def test_counts_are_those_of_networks(options, rng) -> None:
    space = tiny_space("nasnet", **options)
    for _ in range(5):
        architecture = space.sample(rng)
        counted = counts_of(space.network(architecture), torch.zeros(1, 1, 9, 7))
        assert space.params_and_macs(architecture) == counted


def cells_of(space: NasnetSpace) -> list[list[int]]:
    """The options of all architectures of a space."""
    return [list(c) for c in itertools.product(*(range(len(c.options)) for c in space.choices))]


def test_expected_parts_are_those_of_the_enumerated_distribution() -> None:
    space = tiny_space("nasnet", operators=["max_pool_3x3"])
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(space.mask.shape, generator=generator, dtype=torch.float64) * space.mask
    odds = weights / weights.sum(dim=1, keepdim=True)
    expected = torch.zeros(len(space.choices), space.max_parts, dtype=torch.float64)
    for chosen in cells_of(space):
        probability = odds[range(len(chosen)), chosen].prod()
        one_hot = torch.zeros_like(weights)
        one_hot[range(len(chosen)), chosen] = 1.0
        expected += probability * space.run_probability(one_hot)
    torch.testing.assert_close(space.run_probability(weights), expected)


def test_the_decoder_finds_the_smallest_and_the_largest_of_all() -> None:
    space = tiny_space("nasnet", operators=["sep_conv_3x3"])
    macs = [space.params_and_macs(space.architecture(chosen))[1] for chosen in cells_of(space)]
    found = [space.params_and_macs(a)[1] for a in smallest_and_largest(space)]
    assert found == [min(macs), max(macs)]


def test_the_supernet_computes_the_network_of_an_architecture(rng) -> None:
    """With the supernet's weights; its unused states are zeros that the next cell reads."""
    space = tiny_space("nasnet", blocks=3, operators=["nor_conv_1x1", "conv_3x3"])
    assert isinstance(space, NasnetSpace)
    supernet = space.supernet().double().eval()
    genotype = {
        "normal": [["conv_3x3", 0], ["nor_conv_1x1", 1]]
        + [["nor_conv_1x1", 2], ["conv_3x3", 0]] * 2,
        "reduce": [["conv_3x3", 1], ["nor_conv_1x1", 0]]
        + [["conv_3x3", 2], ["nor_conv_1x1", 1]] * 2,
    }
    architecture = space.from_genotype(genotype)
    network = space.network(architecture).double().eval()
    copy_weights(space, supernet, network, architecture)
    x = torch.randn(4, 1, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(supernet(x, space.one_hot(architecture)), network(x))


def copy_weights(space: NasnetSpace, supernet, network, architecture) -> None:
    """Give a network the weights of its operators in the supernet."""
    blocks = space.block_cells(architecture)
    network.stem.load_state_dict(supernet.stem.state_dict())
    outs = [None, None]
    for cell, own in zip(supernet.cells, network.cells, strict=True):
        taken = blocks[cell.cell_type]
        for module, source, out in zip(
            (own.preprocess0, own.preprocess1), cell.preprocess, outs[-2:], strict=True
        ):
            part = source.state_dict()
            load(
                module, {k: narrowed(v, space, out) if "conv" in k else v for k, v in part.items()}
            )
        for number, (name, source) in enumerate(taken.pairs):
            option = space.options.operators.index(name)
            load(
                own.operators[number],
                cell.operators[f"{source}>{2 + number // 2}"][option].state_dict(),
            )
        outs.append((cell.cell_type, taken.out))
    state = supernet.head.state_dict()
    state["fc.weight"] = narrowed(state["fc.weight"], space, outs[-1])
    network.head.load_state_dict(state)


def narrowed(weight: torch.Tensor, space: NasnetSpace, out) -> torch.Tensor:
    """The inputs of a weight that belong to the states in a cell's output."""
    if out is None:
        return weight
    cell_type, states = out
    present = [0] * (0 in space.always_out(cell_type)) + list(range(2, 2 + space.options.blocks))
    channels = weight.shape[1] // len(present)
    places = [present.index(state) for state in states]
    return torch.cat([weight[:, p * channels : (p + 1) * channels] for p in places], dim=1)


def load(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a state without scales and shifts of batch norms, which supernets do not have."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and all("bn" in name for name in missing)


@pytest.mark.parametrize(
    "genotype, words",
    [
        (None, "malformed"),
        (NASNET_A | {"normal": NASNET_A["normal"][:9]}, "10 pairs"),
        (NASNET_A | {"normal": [["no_such_op", 0]] * 10}, "unknown option"),
        (NASNET_A | {"reduce": [["sep_conv_3x3", 2]] * 10}, "unknown option"),
        (NASNET_A | {"normal_concat": [2, 3, 4, 5, 6]}, "keep_input"),
    ],
)
def test_malformed_genotypes_are_refused(genotype, words) -> None:
    with pytest.raises(InputError, match=words):
        build_space("nasnet", {}).from_genotype(genotype)


def test_operators_are_named_and_distinct() -> None:
    for operators in (["sep_conv_9x9"], ["conv_3x3", "conv_3x3"], []):
        with pytest.raises(InputError, match="space.operators"):
            build_space("nasnet", {"operators": operators})


def test_the_genotype_is_json_and_comes_back(rng) -> None:
    space = build_space("nasnet", {})
    for _ in range(10):
        architecture = space.sample(np.random.default_rng(int(rng.integers(1000))))
        assert space.from_genotype(json.loads(json.dumps(space.to_genotype(architecture)))) == (
            architecture
        )
