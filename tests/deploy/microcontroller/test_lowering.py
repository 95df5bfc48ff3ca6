"""Networks as integer operators: the same function, and what can be left out of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.integer_programs import random_network, samples_of, spaces
from helpers.tiny import tiny_space
from torch import nn

from hwnas.deploy.microcontroller.lowering import lower
from hwnas.deploy.microcontroller.program import FUNCTIONS, Program
from hwnas.deploy.microcontroller.quantise import compute
from hwnas.errors import InputError

SPACES = spaces()


def run_in_floats(program: Program, samples: np.ndarray) -> torch.Tensor:
    """The outputs of a program's operators with real numbers."""
    values = {0: torch.from_numpy(samples)}
    for step in program.steps:
        given = [
            values[value].reshape(len(samples), *shape)
            for value, shape in zip(step.inputs, step.shapes, strict=True)
        ]
        found = compute(step, given)
        values[step.output] = FUNCTIONS[step.activation](found) if step.activation else found
        assert tuple(values[step.output].shape[1:]) == step.shape
    return values[program.output].reshape(len(samples), -1)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_a_program_computes_what_its_network_computes(name, seed) -> None:
    network, samples = random_network(SPACES[name], seed), samples_of(SPACES[name], 4)
    with torch.no_grad():
        expected = network(torch.from_numpy(samples)).reshape(4, -1)
        found = run_in_floats(lower(network, samples.shape[1:]), samples)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_kernels_that_meet_only_padding_are_left_out() -> None:
    of_signal = lower(nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2)), (3, 1, 40)).steps[0]
    assert of_signal.weight is not None and of_signal.weight.shape == (8, 3, 1, 5)
    assert of_signal.macs == 8 * 3 * 5 * 20
    of_point = lower(nn.Sequential(nn.Conv2d(3, 8, 7, padding=3)), (3, 1, 1)).steps[0]
    assert of_point.weight is not None and of_point.weight.shape == (8, 3, 1, 1)


def test_macs_are_those_of_the_space_where_every_kernel_row_meets_the_map() -> None:
    space = tiny_space("mbconv", input_channels=3, height=64, width=64)
    for seed in range(3):
        architecture = space.sample(np.random.default_rng(seed))
        found = lower(space.network(architecture), space.options.input_shape)
        assert found.macs == space.params_and_macs(architecture)[1]


@pytest.mark.parametrize("name", ["rnn", "vit"])
def test_operators_without_an_integer_form_are_refused_by_name(name) -> None:
    space = tiny_space(name)
    network = space.network(space.sample(np.random.default_rng(0)))
    with pytest.raises(InputError, match="without an integer form") as caught:
        lower(network, space.options.input_shape)
    assert len(str(caught.value).splitlines()) == 1
