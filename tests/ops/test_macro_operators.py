"""Operators of layered networks: their names, and the modules that the names describe."""

from __future__ import annotations

import re

import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import nn

from hwnas.deploy.export import to_onnx
from hwnas.deploy.fold import fold_batch_norms
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, definition_hash, params_and_macs
from hwnas.ops.macro import (
    LAYER_ACTIVATIONS,
    ConvolutionLayer,
    DenseLayer,
    Pool,
    parsed_operator,
)

WIDTHS = st.none() | st.integers(1, 9999)
ACTIVATION_NAMES = st.sampled_from(sorted(LAYER_ACTIVATIONS))
POOLS = st.builds(
    Pool, st.sampled_from(["max", "avg"]), st.integers(1, 4), st.none() | st.integers(1, 9)
).filter(lambda pool: pool.window != 2 * pool.reduction - 1)
CONVOLUTIONS = st.builds(
    lambda kind, half, width, activation, pool, dilation, groups, norm, residual: ConvolutionLayer(
        kind,
        2 * half + 1,
        width,
        activation,
        pool,
        dilation,
        groups if kind == "conv" else 1,
        norm,
        residual,
    ),
    st.sampled_from(["conv", "separable"]),
    st.integers(0, 7),
    WIDTHS,
    ACTIVATION_NAMES,
    st.none() | POOLS,
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)


@given(CONVOLUTIONS | st.builds(DenseLayer, WIDTHS, ACTIVATION_NAMES))
def test_a_name_describes_the_whole_operator(operator) -> None:
    assert parsed_operator(operator.name) == operator


@given(
    st.text(max_size=30)
    | st.from_regex(
        r"(conv|separable)_\d{0,5}x\d{0,5}([_dgw]\d{0,5}){0,3}_[a-z6]{0,8}", fullmatch=True
    )
)
def test_a_name_is_refused_or_canonical(name: str) -> None:
    """No two names describe the same operator."""
    try:
        operator = parsed_operator(name)
    except KeyError:
        return
    assert name == "linear" or operator.name == name


@pytest.mark.parametrize(
    "name",
    "conv_2x2_relu conv_3x5_relu conv_3x3_w0_relu conv_3x3_swish conv_3x3_relu_max dense_ "
    "dense_w_relu separable_3x3_relu_min2 conv_3x3_relu\n conv_03x03_relu conv_3x3_d1_relu "
    "conv_3x3_w00008_relu separable_3x3_g2_relu conv_3x3_relu_max2k3 conv_3x3_residual "
    "conv_3x3_relu_residual_bare".split(" "),
)
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(KeyError):
        build(OpSpec(name, 4, 4, 8, 8))


SHAPES = [(9, 7), (1, 4), (5, 5)]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(
    "name,stride",
    [
        ("conv_3x3_relu", 1),
        ("conv_5x5_w3_relu6", 2),
        ("conv_1x1_hswish_max2", 1),
        ("separable_3x3_relu_avg4", 1),
        ("separable_7x7_w5_hswish_max2", 2),
        ("conv_3x3_d2_g2_gelu_bare", 3),
        ("separable_3x3_d3_w8_sigmoid_bare_max2k4", 3),
        ("conv_3x3_none_avg3k2", 1),
        ("dense_relu", 1),
        ("dense_w3_relu6", 1),
        ("linear", 1),
    ],
)
def test_shapes_counts_and_folding(name: str, stride: int, size: tuple[int, int]) -> None:
    spec = OpSpec(name, 4, 6, *size, stride)
    torch.manual_seed(0)
    module = build(spec).double().train()
    images = torch.randn(3, 4, *size, dtype=torch.float64)
    module(images)  # running statistics
    module.eval()
    out = module(images)
    if name.startswith(("dense", "linear")):
        assert out.shape == (3, 6)
    else:
        pool = re.search(r"(?:max|avg)(\d)", name)
        divisor = stride * int(pool[1] if pool else 1)
        assert out.shape == (3, 6, -(-size[0] // divisor), -(-size[1] // divisor))
    torch.testing.assert_close(fold_batch_norms(module)(images), out)
    assert not [m for m in fold_batch_norms(module).modules() if isinstance(m, nn.BatchNorm2d)]
    assert params_and_macs(spec)[0] == sum(p.numel() for p in module.parameters())


def test_parameters_and_macs_by_hand() -> None:
    """Convolution 5x5 of 3 channels at stride 2, pool by 2, 1x1 to 6: all with batch norms."""
    params, macs = params_and_macs(OpSpec("conv_5x5_w3_relu_max2", 4, 6, 16, 16, 2))
    assert params == 25 * 4 * 3 + 2 * 3 + 3 * 6 + 2 * 6
    assert macs == 25 * 4 * 3 * 8 * 8 + 3 * 6 * 4 * 4
    params, macs = params_and_macs(OpSpec("dense_w3_relu", 4, 6, 5, 2))
    assert (params, macs) == (40 * 3 + 3 + 3 * 6 + 6, 40 * 3 + 3 * 6)


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_pools_by_hand(pooling: str) -> None:
    """Windows of 3 around every second pixel, cut off at the border."""
    pool = build(OpSpec(f"conv_1x1_relu_{pooling}2", 1, 1, 5, 6)).pool
    x = torch.rand(1, 1, 5, 6, dtype=torch.float64)
    rows = []
    for i in range(0, 5, 2):
        windows = [x[0, 0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] for j in range(0, 6, 2)]
        rows.append([w.max() if pooling == "max" else w.mean() for w in windows])
    torch.testing.assert_close(pool(x)[0, 0], torch.tensor(rows, dtype=torch.float64))


def test_a_dense_layer_reads_maps_and_vectors() -> None:
    module = build(OpSpec("dense_relu", 4, 6, 1, 1))
    x = torch.randn(2, 4)
    expected = F.relu(F.linear(x, module.fc.weight, module.fc.bias))
    assert torch.equal(module(x), expected)
    assert torch.equal(module(x[..., None, None]), expected)


def test_different_operators_have_different_definition_hashes() -> None:
    names = ["conv_3x3_relu", "conv_3x3_w16_relu", "conv_3x3_relu_max2", "conv_3x3_relu_avg2"]
    names += ["separable_3x3_relu", "dense_relu", "dense_w16_relu", "linear"]
    assert len({definition_hash(name) for name in names}) == len(names)


@given(
    kind=st.sampled_from(["max", "avg"]),
    reduction=st.integers(2, 16),
    window=st.integers(1, 16),
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_a_pool_divides_every_size_and_rounds_up(kind, reduction, window, sides) -> None:
    pool = Pool(kind, reduction, window)(*sides)
    out = pool(torch.ones(1, 1, *sides))
    assert out.shape[2:] == tuple(-(-side // reduction) for side in sides)
    assert torch.equal(out, torch.ones_like(out)), "nothing but pixels of the map is counted"


def test_the_properties_of_a_layer_by_hand() -> None:
    """x + tanh(conv(x)): two groups, taps two pixels apart, biases in place of batch norms."""
    torch.manual_seed(0)
    module = build(OpSpec("conv_3x3_d2_g2_tanh_bare_residual", 4, 4, 7, 6))
    x = torch.randn(2, 4, 7, 6)
    weight, bias = module.layers.conv.weight, module.layers.conv.bias
    expected = x + torch.tanh(F.conv2d(x, weight, bias, padding=2, dilation=2, groups=2))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("name", sorted(LAYER_ACTIVATIONS))
def test_each_activation_can_be_exported_and_inspected(name: str) -> None:
    module = build(OpSpec(f"conv_1x1_{name}", 2, 2, 3, 3)).eval()
    model = onnx.load_from_string(to_onnx(module, (torch.zeros(1, 2, 3, 3),)))
    x = torch.randn(1, 2, 3, 3)
    (found,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(x))
