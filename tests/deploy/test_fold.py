"""Folding removes batch norms without changing the function."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from helpers.tiny import tiny_space
from torch import nn

from hwnas.deploy.export import to_onnx
from hwnas.deploy.fold import fold_batch_norms
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import OPERATORS, build, input_shapes
from hwnas.ops.sequences import SEQUENCE_OPERATORS, TOKENS
from hwnas.spaces import SPACES


def with_statistics(module: nn.Module) -> nn.Module:
    """Random running statistics and scales, so that folding has something to do."""
    generator = torch.Generator().manual_seed(0)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2.0, generator=generator)
        with torch.no_grad():
            norm.weight.normal_(generator=generator)
            norm.bias.normal_(generator=generator)
    return module.eval()


# Operators that read the lengths of texts have no batch norm behind a convolution.
@pytest.mark.parametrize("name", sorted(n for n in OPERATORS if not n.startswith("masked")))
@pytest.mark.parametrize("stride", [1, 2])
def test_a_folded_operator_computes_the_same(name: str, stride: int) -> None:
    c_out = 12 if name == "concat" else 4
    # A sequence is a feature map of one row.
    spec = OpSpec(name, 4, c_out, 1 if name in SEQUENCE_OPERATORS else 7, 6, stride)
    module = with_statistics(build(spec)).double()
    inputs = [torch.randn(2, *shape, dtype=torch.float64) for shape in input_shapes(spec)]
    if name == TOKENS:
        inputs = [torch.randint(spec.c_in, tensor.shape) for tensor in inputs]
    folded = fold_batch_norms(module)
    torch.testing.assert_close(folded(*inputs), module(*inputs))
    norms = [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    # No convolution precedes the batch norm of these heads and blocks.
    alone = name.startswith(("bn_relu_classifier", "attention1d", "gru", "lstm"))
    assert len(norms) == int(alone)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_folded_network_computes_the_same_and_the_original_is_unchanged(name: str) -> None:
    space = tiny_space(name)
    network = with_statistics(space.network(space.sample(np.random.default_rng(1))))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = torch.randn(2, 1, 9, 7)
    folded = fold_batch_norms(network)
    torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_network_in_channels_last_exports_as_the_contiguous_one_does() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *pooled).eval()

    image = torch.zeros(1, 3, 6, 6)
    plain = fold_batch_norms(network())
    folded = fold_batch_norms(network().to(memory_format=torch.channels_last))
    nodes, expected = (
        [node.op_type for node in onnx.load_from_string(to_onnx(module, (image,))).graph.node]
        for module in (folded, plain)
    )
    assert nodes == expected
    assert "ReduceMean" in nodes or "GlobalAveragePool" in nodes
