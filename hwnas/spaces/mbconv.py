"""Layer-wise spaces of mobile networks, those of FBNet and ProxylessNAS.

Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture
Search", CVPR 2019 (arXiv 1812.03443), and Cai, Zhu & Han, "ProxylessNAS: Direct Neural Architecture
Search on Target Task and Hardware", ICLR 2019 (arXiv 1812.00332).

A network is a chain of layers between a fixed stem and a fixed head. Each layer is an inverted
bottleneck with a kernel size and an expansion of its own, or is skipped if its input and output
have the same shape. The channels and strides of the layers are given by the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from hwnas.architecture import Architecture
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_op import MixedBlocks
from hwnas.ops.mobile import MBConv
from hwnas.spaces.cells import drop_path
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP, LayerNetwork, LayerSpace, LayerSupernet
from hwnas.spaces.layouts import IMAGENET, LAYOUTS, LayoutOptions, lay_out
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import Variants


class MbconvOptions(LayoutOptions):
    """Sizes of the networks; the defaults are FBNet's for ImageNet, at the size of the images."""

    squeeze_excitation: Literal["none", "all", "choice"] = Field(
        "none",
        description="squeeze-and-excitation: in no block, in all, or chosen for each layer",
    )


class MbconvSpace(LayerSpace):
    """Layers of inverted bottlenecks."""

    name = "mbconv"
    paper = (
        "Wu et al., FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural "
        "Architecture Search, CVPR 2019, arXiv 1812.03443; Cai, Zhu & Han, ProxylessNAS: Direct "
        "Neural Architecture Search on Target Task and Hardware, ICLR 2019, arXiv 1812.00332"
    )
    options_model = MbconvOptions
    heads = ("classifier", "dense", "upsampled")
    variants: ClassVar[Variants] = {
        "fbnet": {"layout": "fbnet", **IMAGENET},
        "proxylessnas": {"layout": "proxylessnas", **IMAGENET},
        "small": {"layout": "small"},
    }
    options: MbconvOptions

    def __init__(self, options: MbconvOptions) -> None:
        layout = LAYOUTS[options.layout]
        self.activation = options.layout_activation
        self.blocks = layout.blocks
        if options.squeeze_excitation != "none":
            excited = tuple(f"{block}_se" for block in layout.blocks)
            plain = layout.blocks if options.squeeze_excitation == "choice" else ()
            self.blocks = (*plain, *excited)
        self.stem, self.layers, self.head = lay_out(options, (options.height, options.width))
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        skippable = (*self.blocks, SKIP)
        return tuple(
            Choice(layer.name, skippable if layer.skippable else self.blocks)
            for layer in self.layers
        )

    def spec(self, choice: int, option: str) -> OpSpec:
        name = option if option == SKIP else f"{option}_{self.activation}"
        return self.layers[choice].spec(name)

    def supernet(self, partial_channels: int = 1) -> Supernet:
        return MbconvSupernet(self)

    def network(self, architecture: Architecture) -> Network:
        return MbconvNetwork(self.stem, self.kept_layers(architecture), self.head)


class MbconvSupernet(LayerSupernet):
    """The chain of layers, each a `MixedBlocks` of all of its candidates."""

    def mixed(self, specs: Sequence[OpSpec]) -> nn.Module:
        return MixedBlocks(specs)


class MbconvNetwork(LayerNetwork):
    """The network of one architecture, with drop path in its residual layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            assert isinstance(block, MBConv)
            y = block.branch(x)
            if self.training and self.drop_path > 0 and block.residual:
                y = drop_path(y, self.drop_path)
            x = x + y if block.residual else y
        outputs: Tensor = self.head(x)
        return outputs
