"""C programs: number by number what the interpreter computes, and as large as predicted."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers.integer_programs import (
    EVERY_ACTIVATION,
    CompiledProgram,
    quantised,
    random_network,
    samples_of,
    spaces,
    write_sources,
)
from torch import nn

from hwnas.deploy.microcontroller.c_source import flash_bytes
from hwnas.deploy.microcontroller.interpreter import outputs

SPACES = spaces()


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_program_computes_what_the_interpreter_does(tmp_path, name, seed) -> None:
    network, samples = random_network(SPACES[name], seed), samples_of(SPACES[name])
    planned, program = quantised(network, samples)
    found = CompiledProgram(planned, program, tmp_path).outputs(samples)
    np.testing.assert_array_equal(found, outputs(program, samples))
    with torch.no_grad():
        exact = network(torch.from_numpy(samples)).reshape(len(samples), -1).numpy()
    noise = ((found - exact) ** 2).sum() / (exact**2).sum()
    assert noise < 10**-1.5, "a signal-to-noise ratio of 15 dB"


@pytest.mark.parametrize("activation", EVERY_ACTIVATION)
def test_activations_are_within_a_step_of_their_functions(activation) -> None:
    from hwnas.ops.macro import LAYER_ACTIVATIONS

    network = nn.Sequential(nn.Conv2d(2, 3, 1), LAYER_ACTIVATIONS[activation]())
    samples = np.random.default_rng(0).normal(size=(64, 2, 4, 4)).astype(np.float32)
    _, program = quantised(network, samples)
    with torch.no_grad():
        exact = network(torch.from_numpy(samples)).reshape(64, -1).numpy()
    # One step each of input, weights, sum and output; no function is steeper than 1.13.
    assert np.abs(outputs(program, samples) - exact).max() < 4 * max(
        program.input.scale, program.result.scale
    )


@pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="needs gcc-arm-none-eabi")
@pytest.mark.parametrize(
    "name",
    ["signals", *(pytest.param(n, marks=pytest.mark.slow) for n in SPACES if n != "signals")],
)
def test_flash_is_predicted_within_two_percent_of_what_a_cross_compiler_makes(
    tmp_path, name
) -> None:
    network, samples = random_network(SPACES[name], 0), samples_of(SPACES[name])
    planned, program = quantised(network, samples)
    source, compiled = write_sources(planned, program, tmp_path), tmp_path / "model.o"
    flags = ["-std=c99", "-Os", "-mcpu=cortex-m4", "-mthumb", "-c"]
    subprocess.run(["arm-none-eabi-gcc", *flags, "-o", compiled, source], check=True)
    listed = subprocess.run(
        ["arm-none-eabi-size", compiled], check=True, capture_output=True, text=True
    ).stdout
    text, data, bss = map(int, listed.splitlines()[1].split()[:3])
    assert (data, bss) == (0, planned.bytes)
    assert flash_bytes(planned.program) == pytest.approx(text, rel=0.02)
