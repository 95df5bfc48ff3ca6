"""Widths as the numbers of channels of ordinary layers, and smaller versions of these layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from hwnas.nn import Value, Width
from hwnas.nn.narrowing import narrow


def test_a_width_is_the_largest_number_and_its_multiples_follow() -> None:
    width = Width([16, 8, 24])
    assert width == 24 and width.values == (8, 16, 24)
    for derived, values in ((2 * width, (16, 32, 48)), (width // 8, (1, 2, 3))):
        assert isinstance(derived, Width)
        assert derived.values == values
        assert derived.decision is width.decision
    assert type(width + 1) is int
    assert type(width // width) is int
    assert copy.deepcopy(width) is width
    with pytest.raises(TypeError, match="its networks can"):
        pickle.dumps(width)


def test_a_value_names_classes_by_their_names() -> None:
    assert Value([nn.ReLU, nn.Hardswish]).options == ("ReLU", "Hardswish")
    assert Value([3, 5]).options == ("3", "5")


LAYERS = {
    "convolution": lambda w: nn.Conv2d(3, w, 3),
    "convolution that reads it": lambda w: nn.Conv1d(2 * w, 5, 1),
    "depthwise": lambda w: nn.Conv2d(w, w, 3, groups=w),
    "transposed": lambda w: nn.ConvTranspose2d(w, 4, 2),
    "linear": lambda w: nn.Linear(w, 3 * w),
    "batch norm": nn.BatchNorm2d,
    "layer norm": nn.LayerNorm,
    "group norm": lambda w: nn.GroupNorm(2, w),
    "embedding": lambda w: nn.Embedding(7, w),
    "activation": lambda w: nn.PReLU(w),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_narrowed_layer_is_one_of_that_size_with_the_first_channels(name) -> None:
    make, width = LAYERS[name], Width([4, 8])
    layer, expected = make(width), make(4)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    narrow(layer, lambda w: w.values[0])
    assert str(layer) == str(expected)
    assert not any(isinstance(value, Width) for value in vars(layer).values())
    for key, value in expected.state_dict().items():
        own = layer.state_dict()[key]
        assert own.shape == value.shape
        assert torch.equal(own, state[key][tuple(slice(0, n) for n in value.shape)])


def test_tied_weights_stay_tied() -> None:
    width = Width([4, 8])
    embedding, head = nn.Embedding(7, width), nn.Linear(width, 7, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleList([embedding, head])
    narrow(model, lambda w: w.values[0])
    assert head.weight is embedding.weight
    assert head.weight.shape == (7, 4)
