"""The recurrent cell space of DARTS against its published cell and a recurrence by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space

from hwnas.architecture import Mixture
from hwnas.errors import InputError
from hwnas.spaces import build_space

# The cell that the paper's authors released as DARTS_V2.
DARTS_V2 = {
    "recurrent": [
        ["sigmoid", 0],
        ["relu", 1],
        ["relu", 1],
        ["identity", 1],
        ["tanh", 2],
        ["sigmoid", 5],
        ["tanh", 3],
        ["relu", 5],
    ],
    "concat": [1, 2, 3, 4, 5, 6, 7, 8],
}
TOKENS = {"vocabulary": 11, "classes": 11, "head": "dense", "height": 1, "input_channels": 1}


def test_published_cell_round_trips() -> None:
    space = build_space("rnn", {**TOKENS, "width": 6, "channels": 5})
    architecture = space.from_genotype(DARTS_V2)
    assert architecture["node1"] == "sigmoid~0"
    assert architecture["node8"] == "relu~5"
    assert space.to_genotype(architecture) == DARTS_V2
    # 4 activations, and as many states as there are before a node.
    assert space.size() == 4**8 * math.factorial(8)


@pytest.mark.parametrize(
    "changed",
    [
        {"recurrent": DARTS_V2["recurrent"][:7]},
        {"recurrent": [["sigmoid", 1], *DARTS_V2["recurrent"][1:]]},
        {"recurrent": [["softplus", 0], *DARTS_V2["recurrent"][1:]]},
        {"recurrent": 3},
        {"concat": [1, 2]},
        {"concat": 8},
        {"concat": None},
    ],
)
def test_malformed_genotypes_are_refused(changed) -> None:
    space = build_space("rnn", {**TOKENS, "width": 6})
    with pytest.raises(InputError):
        space.from_genotype(DARTS_V2 | changed)


def test_a_network_computes_the_recurrence() -> None:
    """Two nodes, in numpy and float64, with the formulas of the paper's code."""
    torch.manual_seed(0)
    options = {**TOKENS, "width": 5, "channels": 3, "nodes": 2}
    space = build_space("rnn", options)
    network = space.network(space.architecture({"node1": "tanh~0", "node2": "relu~1"})).double()
    tokens = torch.randint(11, (4, 5))
    weights = {name: value.detach().numpy() for name, value in network.named_parameters()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    x = weights["stem.0.embedding.weight"][tokens] + weights["stem.0.places"][0, :, 0].T
    last = np.zeros((4, 3))
    for step in range(5):
        gate, value = np.split(
            np.c_[x[:, step], last] @ weights["first.linear.weight"].T, 2, axis=1
        )
        s0 = last + sigmoid(gate) * (np.tanh(value) - last)
        gate, value = np.split(s0 @ weights["nodes.0.linear.weight"].T, 2, axis=1)
        s1 = s0 + sigmoid(gate) * (np.tanh(value) - s0)
        gate, value = np.split(s1 @ weights["nodes.1.linear.weight"].T, 2, axis=1)
        s2 = s1 + sigmoid(gate) * (np.maximum(value, 0) - s1)
        last = (s1 + s2) / 2
        expected = last @ weights["head.0.weight"][:, :, 0, 0].T + weights["head.0.bias"]
        found = network(tokens)[:, :, 0, step]
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9)


def test_outputs_do_not_depend_on_later_steps(rng) -> None:
    space = build_space("rnn", {**TOKENS, "width": 6, "channels": 4, "nodes": 3})
    network = space.network(space.sample(rng)).eval()
    tokens = torch.randint(11, (2, 6))
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    before, after = network(tokens), network(changed)
    assert torch.equal(before[..., :4], after[..., :4])
    assert not torch.equal(before[..., 4:], after[..., 4:])


@pytest.mark.parametrize("name", ["rnn", "sequence"])
def test_parameters_are_those_of_the_network(name: str, rng) -> None:
    """Weights that steps share are counted once."""
    space = tiny_space(name)
    for _ in range(3):
        architecture = space.sample(rng)
        network = space.network(architecture)
        params, _ = space.params_and_macs(architecture)
        assert params == sum(p.numel() for p in network.parameters())


def test_multiply_accumulates_grow_with_the_steps() -> None:
    short, long = (build_space("rnn", {**TOKENS, "width": w, "channels": 4}) for w in (3, 6))
    architecture = short.from_genotype(DARTS_V2)
    matrices = 8 * 8 + 8 * 4 * 8 + 4 * 11  # first state, eight nodes, head
    for space, steps in ((short, 3), (long, 6)):
        assert space.params_and_macs(architecture)[1] == steps * matrices


def test_only_active_options_are_computed(rng) -> None:
    space = tiny_space("rnn")
    supernet = space.supernet()
    calls: list[int] = []
    for node in supernet.nodes:
        node.linear.register_forward_hook(lambda *_: calls.append(1))
    inputs = torch.randn(2, 1, 9, 7)
    mixture = space.one_hot(space.sample(rng))
    supernet(inputs, mixture)
    assert len(calls) == space.steps * len(space.choices)
    calls.clear()
    supernet(inputs, Mixture(mixture.weights))
    assert len(calls) == space.steps * (1 + 2)


def test_weights_of_any_sum_give_the_same_states() -> None:
    """Rows may be sigmoids; unnormalised states would grow or vanish over the steps."""
    torch.manual_seed(0)
    space = tiny_space("rnn")
    supernet, weights = space.supernet(), torch.rand(space.mask.shape) * space.mask
    inputs = torch.randn(2, 1, 9, 7)
    torch.testing.assert_close(
        supernet(inputs, Mixture(weights)), supernet(inputs, Mixture(3 * weights))
    )
