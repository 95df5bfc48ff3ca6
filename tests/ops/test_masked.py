"""Padding has no effect: networks of longer sequences against those of the texts' own length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from hwnas.architecture import Architecture
from hwnas.deploy.export import export_network
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build
from hwnas.ops.masked import BELOW, is_filled
from hwnas.ops.sequences import SEQUENCE_BLOCKS
from hwnas.spaces import SearchSpace, build_space

BLOCKS = ("lstm", "gru", "conv1d_5", "attention1d_h2", "feedforward1d_e2")
LONG, SHORT = 11, 7


def texts(length: int, **more) -> SearchSpace:
    sizes = {"vocabulary": 20, "input_channels": 1, "height": 1, "width": length, "classes": 3}
    own = {"layers": len(BLOCKS), "channels": 8, "blocks": BLOCKS, "padding": True}
    return build_space("sequence", sizes | own | more)


def chain(space: SearchSpace) -> Architecture:
    """One layer of each kind."""
    return space.architecture({c.name: b for c, b in zip(space.choices, BLOCKS, strict=True)})


def trained_alike(head: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network of long and one of short sequences with the same weights and statistics."""
    torch.manual_seed(0)
    long, short = texts(LONG, head=head), texts(SHORT, head=head)
    network, other = long.network(chain(long)), short.network(chain(short))
    network.train()
    network(padded(SHORT))  # moves the running statistics
    state = network.state_dict()
    for name in state:
        if name.endswith("places"):
            state[name] = state[name][..., :SHORT]
    other.load_state_dict(state)
    return network.eval(), other.eval()


def padded(length: int) -> torch.Tensor:
    tokens = torch.randint(1, 20, (6, LONG), generator=torch.Generator().manual_seed(1))
    tokens[:, length:] = 0
    return tokens


@pytest.mark.parametrize("head", ["classifier", "positions"])
def test_a_padded_text_is_read_as_the_text_itself(head: str) -> None:
    long, short = trained_alike(head)
    tokens = padded(SHORT)
    found, expected = long(tokens), short(tokens[:, :SHORT])
    torch.testing.assert_close(found[..., :SHORT], expected, atol=1e-6, rtol=1e-5)
    if head == "positions":
        assert found.shape == (6, 3, 1, LONG)
        lowest = found[..., :SHORT].amin(dim=3, keepdim=True)
        assert (found[..., SHORT:] <= lowest - BELOW).all()


def test_the_exported_graph_honours_the_padding() -> None:
    long, short = trained_alike("classifier")
    model = export_network(long, (LONG,), ("tokens", "logits"))
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for length in (1, 4, SHORT):
        tokens = padded(length)
        (found,) = session.run(None, {"tokens": tokens.numpy()})
        expected = short(tokens[:, :SHORT]).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SEQUENCE_BLOCKS)
def test_every_block_has_a_form_that_keeps_padding_out(name: str) -> None:
    torch.manual_seed(0)
    block = build(OpSpec(f"masked_{name}", 8, 8, 1, 6)).eval()
    x = torch.randn(2, 8, 1, 6)
    x[:, :, :, 4:] = 0
    found = block(x)
    assert is_filled(found)[:, 0, 0].tolist() == [[True] * 4 + [False] * 2] * 2
    torch.testing.assert_close(found[..., :4], block(x[..., :4]), atol=1e-6, rtol=1e-5)


def test_an_empty_text_has_finite_outputs() -> None:
    long, _ = trained_alike("classifier")
    assert torch.isfinite(long(torch.zeros(2, LONG, dtype=torch.int64))).all()


def test_texts_without_padding_keep_their_operators() -> None:
    names = {spec.name for spec in texts(5, padding=False).all_operators()}
    assert not [name for name in names if name.startswith("masked_")]
    with pytest.raises(InputError, match="positions are those of texts with padding"):
        texts(5, padding=False, head="positions")
    with pytest.raises(InputError, match="only texts are padded"):
        build_space("sequence", {"padding": True})
