"""Operators of layered networks: their names, and the modules that the names describe."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hwnas.deploy.fold import fold_batch_norms
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, definition_hash, params_and_macs
from hwnas.ops.macro import ConvolutionLayer, DenseLayer, parsed_operator
from hwnas.ops.parts import ACTIVATIONS

WIDTHS = st.none() | st.integers(1, 9999)
ACTIVATION_NAMES = st.sampled_from(sorted(ACTIVATIONS))
CONVOLUTIONS = st.builds(
    lambda kind, half, width, activation, pool: ConvolutionLayer(
        kind, 2 * half + 1, width, activation, *pool
    ),
    st.sampled_from(["conv", "separable"]),
    st.integers(0, 7),
    WIDTHS,
    ACTIVATION_NAMES,
    st.just((None, 1)) | st.tuples(st.sampled_from(["max", "avg"]), st.integers(1, 4)),
)


@given(CONVOLUTIONS | st.builds(DenseLayer, WIDTHS, ACTIVATION_NAMES))
def test_a_name_describes_the_whole_operator(operator) -> None:
    assert parsed_operator(operator.name) == operator


@given(
    st.text(max_size=30)
    | st.from_regex(r"(conv|separable)_\d{0,5}x\d{0,5}(_w\d{0,5})?_[a-z6]{0,8}", fullmatch=True)
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
    "conv_2x2_relu conv_3x5_relu conv_3x3_w0_relu conv_3x3_tanh conv_3x3_relu_max dense_ "
    "dense_w_relu separable_3x3_relu_min2 conv_3x3_relu\n conv_03x03_relu "
    "conv_3x3_w00008_relu".split(" "),
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
        divisor = stride * int(name[-1] if name[-4:-1] in ("max", "avg") else 1)
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
