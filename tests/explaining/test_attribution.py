"""Attributions of linear networks, where integrated gradients and occlusion are known exactly."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.data.text import UNKNOWN_TOKEN
from hwnas.errors import RuntimeMissingError
from hwnas.explaining.attribution import attributions

CLASSES = torch.tensor([0, 2, 1])


def test_of_a_linear_network_gradients_are_weights_times_inputs() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2 * 14 * 14, 3)
    network = nn.Sequential(nn.Flatten(), linear).eval()
    inputs = torch.randn(3, 2, 14, 14)
    found = attributions(network, inputs, CLASSES)
    weights = linear.weight.detach()[CLASSES].view(3, 2, 14, 14)
    expected = (weights * inputs).sum(dim=1).numpy()
    np.testing.assert_allclose(found.gradients, expected, atol=1e-4)
    assert found.residual < 1e-3
    assert found.occlusion.shape == (3, 14, 14)
    # A window of 2 x 2 moves by one pixel, so a place in the middle is in four of them.
    product = nn.functional.avg_pool2d((weights * inputs).sum(dim=1, keepdim=True), 2, 1) * 4
    ones = torch.ones(1, 1, 2, 2)
    spread = nn.functional.conv_transpose2d(product, ones)[:, 0] / 4
    np.testing.assert_allclose(found.occlusion[:, 1:-1, 1:-1], spread[:, 1:-1, 1:-1], atol=1e-3)


def test_columns_of_a_table_are_explained_one_by_one() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 3)
    network = nn.Sequential(nn.Flatten(), linear).eval()
    inputs = torch.randn(3, 5, 1, 1)
    found = attributions(network, inputs, CLASSES)
    expected = (linear.weight.detach()[CLASSES] * inputs[:, :, 0, 0]).numpy()
    np.testing.assert_allclose(found.gradients, expected, atol=1e-4)
    np.testing.assert_allclose(found.occlusion, expected, atol=1e-4)


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens).sum(dim=1)


def test_words_are_explained_against_the_unknown_word() -> None:
    torch.manual_seed(0)
    network = BagOfWords().eval()
    tokens = torch.tensor([[2, 3, 0, 0], [4, 5, 2, 0], [3, 3, 3, 3]])
    found = attributions(network, tokens, CLASSES)
    table = network.embedding.weight.detach()
    for row, label in enumerate(CLASSES):
        logits = table[tokens[row], label]
        baseline = table[torch.where(tokens[row] > 0, UNKNOWN_TOKEN, 0), label]
        np.testing.assert_allclose(found.gradients[row], logits - baseline, atol=1e-5)
        np.testing.assert_allclose(found.occlusion[row], logits - baseline, atol=1e-5)


def test_without_the_library_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(RuntimeMissingError, match=r"Captum is not installed.*hwnas\[explain\]"):
        attributions(nn.Flatten(), torch.zeros(1, 3, 1, 1), torch.zeros(1, dtype=torch.long))
