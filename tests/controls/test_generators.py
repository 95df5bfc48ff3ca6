"""Hand-made generators make the images of a decoder space, and are trained as its networks."""

from __future__ import annotations

import pytest
import torch

from hwnas.controls.generators import GENERATORS, dcgan
from hwnas.errors import InputError
from hwnas.ops.encoder import Decoded
from hwnas.spaces.decoder import DecoderOptions
from hwnas.spaces.options import SpaceOptions


@pytest.mark.parametrize("doublings", [1, 2, 3])
def test_dcgan_has_the_shape_of_the_space_and_the_stated_channels(doublings) -> None:
    options = DecoderOptions(
        input_channels=6, classes=3, image_size=[8, 16], doublings=doublings, channels=4
    )
    network = GENERATORS["dcgan"].build(options, 8).eval()
    latents = torch.randn(2, 6, 1, 1)
    assert network(latents).shape == (2, 3, 8, 16)
    found = network((latents, torch.rand(2, 3, 8, 16)))
    assert isinstance(found, Decoded)
    assert network.head.conv.weight.shape == (8, 3, 5, 5)
    norms = [m for m in network.layers.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == [8 * 2**i for i in reversed(range(doublings - 1))]


def test_other_heads_and_sides_are_refused() -> None:
    with pytest.raises(InputError, match="make images.*classifier"):
        dcgan(SpaceOptions(), 8)
    with pytest.raises(InputError, match=r"multiples of 4.*\[6, 8\]"):
        dcgan(SpaceOptions(head="image", image_size=[6, 8]), 8)
