"""Operators of generators: shapes, multiply-accumulates, and what each computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, input_shapes, params_and_macs, reads_input
from hwnas.ops.generators import GENERATOR_OPERATORS, KERNELS


@pytest.mark.parametrize("name", sorted(GENERATOR_OPERATORS))
def test_up_layers_double_the_sides_and_refining_layers_keep_them(name) -> None:
    c_out = 6 if name.startswith("up_") else 4
    spec = OpSpec(name, 4, c_out, 3, 5)
    factor = 2 if name.startswith("up_") else 1
    outputs = build(spec)(torch.randn(2, 4, 3, 5))
    assert outputs.shape == (2, c_out, 3 * factor, 5 * factor)
    assert not reads_input(spec)


def test_a_projection_reads_a_latent_vector() -> None:
    spec = OpSpec("project_3x5", 7, 4, 1, 1)
    module = build(spec)
    latents = torch.randn(2, *input_shapes(spec)[0])
    expected = F.relu(module.linear(latents[:, :, 0, 0])).reshape(2, 4, 3, 5)
    torch.testing.assert_close(module(latents), expected)
    assert reads_input(spec)
    assert params_and_macs(spec) == (7 * 60 + 60, 7 * 60)


@pytest.mark.parametrize("kernel", KERNELS)
def test_multiply_accumulates_are_those_of_the_convolutions(kernel) -> None:
    places, taps = 3 * 5, kernel**2
    macs = {
        f"up_nearest_{kernel}x{kernel}": 4 * places * taps * 4 * 6,
        f"up_subpixel_{kernel}x{kernel}": places * taps * 4 * 24,
        f"refine_{kernel}x{kernel}_w2": places * (taps * 6 * 12 + 12 * 6),
    }
    for name, expected in macs.items():
        spec = OpSpec(name, 6 if "refine" in name else 4, 6, 3, 5)
        assert params_and_macs(spec)[1] == expected, name
    side = max(kernel, 2)
    spec = OpSpec(f"up_transposed_{kernel}x{kernel}", 4, 6, 3, 5)
    assert params_and_macs(spec)[1] == places * side**2 * 4 * 6


def test_a_subpixel_layer_puts_channels_beside_each_other() -> None:
    module = build(OpSpec("up_subpixel_1x1", 1, 1, 1, 1)).eval()
    with torch.no_grad():
        module.layers.conv.weight[:] = torch.tensor([1.0, 2, 3, 4])[:, None, None, None]
        module.layers.bn.eps = 0.0
    expected = torch.tensor([[1.0, 2], [3, 4]])
    torch.testing.assert_close(module(torch.ones(1, 1, 1, 1))[0, 0], expected)
