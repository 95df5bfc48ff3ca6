"""Generators of images: decoders from a latent vector to an image.

The choices follow Gong et al., "AutoGAN: Neural Architecture Search for Generative Adversarial
Networks", ICCV 2019 (arXiv 1908.03835), whose networks are chains of cells that each enlarge the
map by a chosen upsampling. Here every layer also chooses its kernel, layers between two upsamplings
choose their width or are left out, and the networks are trained as the decoders of variational
autoencoders (`hwnas.ops.encoder`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.encoder import Encoder, decoded
from hwnas.ops.generators import KERNELS, UPSAMPLINGS, WIDTHS
from hwnas.ops.heads import Head
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP, LayerNetwork, LayerSpace, LayerSupernet
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions, Variants


class DecoderOptions(SpaceOptions):
    """Sizes of the networks; `input_channels` is the length of the latent vectors."""

    input_channels: int = Field(128, ge=1, le=100_000, description="length of the latent vectors")
    height: int = Field(1, ge=1, le=4096, description="1 for latent vectors")
    width: int = Field(1, ge=1, le=4096, description="1 for latent vectors")
    classes: int = Field(3, ge=1, le=100_000, description="channels of the images")
    head: Head = Field("image", description="always image: the values of its pixels")
    image_size: list[int] = Field([32, 32], description="height and width of the images")
    channels: int = Field(
        16,
        ge=1,
        le=4096,
        description="channels of the map of the image's size",
    )
    growth: int = Field(
        2,
        ge=1,
        le=8,
        description="what every halving of the map's sides multiplies its channels by",
    )
    doublings: int = Field(2, ge=1, le=8, description="how often the sides of the map are doubled")
    layers: int = Field(
        2, ge=0, le=20, description="largest number of refining layers behind each doubling"
    )
    upsamplings: tuple[str, ...] = Field(
        UPSAMPLINGS, min_length=1, description="ways to double the sides"
    )
    kernels: tuple[int, ...] = Field(
        (3, 5), min_length=1, description="sides of the convolutions' kernels"
    )
    widths: tuple[int, ...] = Field(
        (1, 2, 4), min_length=1, description="what refining layers multiply their channels by"
    )

    @field_validator("upsamplings", "kernels", "widths")
    @classmethod
    def _known(cls, value: tuple[Any, ...], info: Any) -> tuple[Any, ...]:
        known = {"upsamplings": UPSAMPLINGS, "kernels": KERNELS, "widths": WIDTHS}[info.field_name]
        if not set(value) <= set(known) or len(set(value)) < len(value):
            raise ValueError(f"expected different ones of {', '.join(map(str, known))}")
        return value

    @model_validator(mode="after")
    def _can_be_doubled(self) -> DecoderOptions:
        factor = 2**self.doublings
        if self.image_size and any(side % factor for side in self.image_size):
            height, width = self.image_size
            raise ValueError(
                f"images of {height} x {width} cannot come from maps whose sides are doubled "
                f"{self.doublings} times: expected sides that are multiples of {factor}, or fewer "
                "doublings"
            )
        return self


class DecoderSpace(LayerSpace):
    """Decoders; the first layer of each stage doubles the sides, the others refine the map."""

    name = "decoder"
    paper = (
        "after Gong et al., AutoGAN: Neural Architecture Search for Generative Adversarial "
        "Networks, ICCV 2019, arXiv 1908.03835, with kernels and widths as further choices"
    )
    options_model = DecoderOptions
    heads = ("image",)
    variants: ClassVar[Variants] = {"": {"doublings": 3, "channels": 64}}
    options: DecoderOptions

    def __init__(self, options: DecoderOptions) -> None:
        factor = 2**options.doublings
        height, width = (side // factor for side in options.image_size)
        c_out = options.channels * options.growth**options.doublings
        read = options.input_channels, c_out, options.height, options.width
        self.stem = [OpSpec(f"project_{height}x{width}", *read)]
        self.places: list[tuple[int, int, int, int]] = []
        """Channels in and out, height and width of the input of each layer."""
        for _ in range(options.doublings):
            c_in, c_out = c_out, c_out // options.growth
            self.places.append((c_in, c_out, height, width))
            height, width = 2 * height, 2 * width
            self.places += [(c_out, c_out, height, width)] * options.layers
        self.head = [options.head_operator(c_out, height, width)]
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        options = self.options
        sides = [f"{kernel}x{kernel}" for kernel in options.kernels]
        up = tuple(f"up_{kind}_{side}" for kind in options.upsamplings for side in sides)
        refine = tuple(f"refine_{side}_w{width}" for side in sides for width in options.widths)
        return tuple(
            Choice(f"stage{stage}/layer{layer + 1}", (*refine, SKIP) if layer else up)
            for stage in range(1, options.doublings + 1)
            for layer in range(options.layers + 1)
        )

    def spec(self, choice: int, option: str) -> OpSpec:
        return OpSpec(option, *self.places[choice])

    def encoder(self) -> Encoder:
        """A new encoder of the images that its networks generate."""
        options = self.options
        latents = options.input_channels * options.height * options.width
        return Encoder(options.classes, latents)

    def supernet(self, partial_channels: int = 1) -> Supernet:
        return DecoderSupernet(self)

    def network(self, architecture: Architecture) -> Network:
        return DecoderNetwork(self, architecture)


class DecoderSupernet(LayerSupernet):
    """The chain of layers with all of their candidates, and the encoder."""

    def __init__(self, space: DecoderSpace) -> None:
        super().__init__(space)
        self.encoder = space.encoder()

    def forward(self, x: Any, mixture: Mixture) -> Any:
        """Images of latent vectors, or `Decoded` for a training batch."""

        def decode(latents: Tensor) -> Tensor:
            return super(DecoderSupernet, self).forward(latents, mixture)

        return decoded(decode, self.encoder, x)


class DecoderNetwork(LayerNetwork):
    """The decoder of one architecture, and until it is deployed the encoder."""

    def __init__(self, space: DecoderSpace, architecture: Architecture) -> None:
        super().__init__(space.stem, space.kept_layers(architecture), space.head)
        self.encoder = space.encoder()

    def forward(self, x: Any) -> Any:
        """Images of latent vectors, or `Decoded` for a training batch."""
        return decoded(super().forward, self.encoder, x)
