"""Hand-made generators of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hwnas.controls.handmade import Family, PlainNetwork, channels
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build
from hwnas.ops.encoder import Encoder, decoded
from hwnas.ops.parts import sequential
from hwnas.spaces.decoder import DecoderOptions
from hwnas.spaces.networks import Network
from hwnas.spaces.options import SpaceOptions

DOUBLINGS = 2
"""How often the sides are doubled where a space does not say it."""


class PlainGenerator(PlainNetwork):
    """Layers in a row and, until it is deployed, the encoder of its training."""

    def __init__(self, layers: Sequence[nn.Module], head: nn.Module, encoder: Encoder) -> None:
        super().__init__(layers, head)
        self.encoder = encoder

    def forward(self, x: Any) -> Any:
        """Images of latent vectors, or `Decoded` for a training batch."""
        return decoded(super().forward, self.encoder, x)


def dcgan(options: SpaceOptions, width: int) -> Network:
    """The generator of DCGAN: transposed 5x5 convolutions, each with half of the channels.

    The last one makes the image, without a batch norm; its input has the stated width. As the
    images are 0 to 1, it ends with a sigmoid in place of the hyperbolic tangent.

    Raises:
        InputError: for a head that makes no images, and for sides that cannot be doubled so often.
    """
    doublings = options.doublings if isinstance(options, DecoderOptions) else DOUBLINGS
    factor = 2**doublings
    if options.head != "image" or any(side % factor for side in options.image_size):
        raise InputError(
            "hand-made generators make images",
            expected=f"images with sides that are multiples of {factor}",
            actual=options.image_size or f"a head of kind {options.head}",
        )
    height, width_px = (side // factor for side in options.image_size)
    latents = options.input_channels, options.height, options.width
    c_out = channels(width) * 2 ** (doublings - 1)
    read = OpSpec(f"project_{height}x{width_px}", latents[0], c_out, *latents[1:])
    layers = [build(read)]
    for _ in range(doublings - 1):
        spec = OpSpec("up_transposed_5x5", c_out, c_out // 2, height, width_px)
        layers.append(build(spec))
        c_out, height, width_px = c_out // 2, 2 * height, 2 * width_px
    last = nn.ConvTranspose2d(c_out, options.classes, 5, 2, 2, output_padding=1)
    encoder = Encoder(options.classes, latents[0] * latents[1] * latents[2])
    return PlainGenerator(layers, sequential(conv=last, pixel=nn.Sigmoid()), encoder)


GENERATORS: dict[str, Family] = {
    "dcgan": Family(
        "Radford, Metz & Chintala, Unsupervised Representation Learning with Deep Convolutional "
        "Generative Adversarial Networks, ICLR 2016, arXiv 1511.06434",
        dcgan,
        step=4,
    )
}
"""The hand-made generators, by name."""
