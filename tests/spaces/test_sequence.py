"""Sequence layers against PyTorch's modules and counts by hand, and options that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, params_and_macs
from hwnas.ops.sequences import SEQUENCE_BLOCKS, SequenceAttention
from hwnas.spaces import build_space


@pytest.mark.parametrize("name", sorted(SEQUENCE_BLOCKS))
def test_blocks_keep_the_shape_and_add_their_input(name: str) -> None:
    torch.manual_seed(0)
    block = build(OpSpec(name, 8, 8, 1, 5)).eval()
    x = torch.randn(3, 8, 1, 5)
    with torch.no_grad():
        torch.testing.assert_close(block(x) - block.branch(x), x)


def test_attention_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    attention = SequenceAttention(8, heads=2).double()
    reference = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(attention.read.weight[:, :, 0, 0])
        reference.in_proj_bias.copy_(attention.read.bias)
        reference.out_proj.weight.copy_(attention.project.weight[:, :, 0, 0])
        reference.out_proj.bias.zero_()
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    expected, _ = reference(x, x, x)
    found = attention(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_counts_of_recurrent_layers_by_hand() -> None:
    """Four (LSTM) or three (GRU) gates read input and state at each of five steps."""
    for name, gates in (("lstm", 4), ("gru", 3)):
        params, macs = params_and_macs(OpSpec(name, 8, 8, 1, 5))
        assert macs == 5 * gates * 2 * 8 * 8
        assert params == gates * (2 * 8 * 8 + 2 * 8) + 2 * 8


def test_counts_of_attention_by_hand() -> None:
    """Four linear layers at each of five steps, and two products between all pairs of steps."""
    _, macs = params_and_macs(OpSpec("attention1d_h4", 8, 8, 1, 5))
    assert macs == 4 * 8 * 8 * 5 + 2 * 5 * 5 * 8


def test_columns_of_a_map_are_steps() -> None:
    """Images and spectrograms are read column by column."""
    space = build_space(
        "sequence", {"layers": 1, "channels": 8, "input_channels": 2, "height": 3, "width": 5}
    )
    assert space.stem == [OpSpec("column_embedding", 2, 8, 3, 5)]
    stem = build(space.stem[0]).eval()
    x = torch.randn(2, 2, 3, 5)
    changed = x.clone()
    changed[:, :, :, 2] += 1
    difference = (stem(changed) - stem(x)).abs().amax(dim=(0, 1, 2))
    assert difference[2] > 0
    assert not difference[[0, 1, 3, 4]].any()


@pytest.mark.parametrize(
    "options,words",
    [
        ({"blocks": ["lstm", "transformer"]}, "blocks"),
        ({"blocks": ["lstm", "lstm"]}, "blocks"),
        ({"blocks": []}, "blocks"),
        ({"blocks": [["lstm"]]}, "blocks"),
        ({"channels": 10}, "channels"),
        ({"head": "dense"}, "cannot have the head"),
    ],
)
def test_bad_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_space("sequence", options)
