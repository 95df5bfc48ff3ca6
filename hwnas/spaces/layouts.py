"""Layouts of mobile networks: what stands before, between and behind the layers that are chosen.

Wu et al., "FBNet", CVPR 2019 (arXiv 1812.03443), and Cai, Zhu & Han, "ProxylessNAS", ICLR 2019
(arXiv 1812.00332): a row of layers between a fixed stem and a fixed head, with given channels and
strides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import out_size, round_channels
from hwnas.spaces.options import SpaceOptions

IMAGENET = {"height": 224, "width": 224, "classes": 1000}
"""Sizes that the papers state their counts for."""


@dataclass(frozen=True)
class Layout:
    """What a paper gives before the search.

    Attributes:
        stem: channels of the first convolution, which halves the size.
        first: channels of a depthwise separable convolution behind it; None without one.
        stages: channels, number of layers, and stride of the first of them.
        head: channels of the last 1x1 convolution.
        blocks: what a layer can be, besides skipped.
        activation: of all layers.
    """

    stem: int
    first: int | None
    stages: tuple[tuple[int, int, int], ...]
    head: int
    blocks: tuple[str, ...]
    activation: str

    @property
    def halvings(self) -> int:
        """Strides of 2, the first convolution's included."""
        return 1 + sum(stride == 2 for _, _, stride in self.stages)


LAYOUTS = {
    # Tables 1 and 2 of the paper; the head is that of FBNet-B and C.
    "fbnet": Layout(
        stem=16,
        first=None,
        stages=(
            (16, 1, 1),
            (24, 4, 2),
            (32, 4, 2),
            (64, 4, 2),
            (112, 4, 1),
            (184, 4, 2),
            (352, 1, 1),
        ),
        head=1984,
        blocks=tuple(f"mbconv_{k}x{k}_{e}" for k in (3, 5) for e in ("e1", "e1_g2", "e3", "e6")),
        activation="relu",
    ),
    # Section 4.2 of the paper; channels as in the authors' search.
    "proxylessnas": Layout(
        stem=32,
        first=16,
        stages=((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)),
        head=1280,
        blocks=tuple(f"mbconv_{k}x{k}_{e}" for k in (3, 5, 7) for e in ("e3", "e6")),
        activation="relu6",
    ),
    # For small images, searched in minutes on a CPU: the same blocks, fewer layers.
    "small": Layout(
        stem=16,
        first=None,
        stages=((16, 2, 1), (32, 3, 2), (64, 3, 2)),
        head=256,
        blocks=tuple(f"mbconv_{k}x{k}_{e}" for k in (3, 5) for e in ("e1", "e3", "e6")),
        activation="relu",
    ),
}


class LayoutOptions(SpaceOptions):
    """Sizes of the networks; the defaults are FBNet's for ImageNet, at the size of the images."""

    layout: Literal["fbnet", "proxylessnas", "small"] = "fbnet"
    width_multiplier: float = Field(1.0, gt=0, le=8, description="of all channels")
    halvings: int | None = Field(
        None,
        ge=0,
        description="how often the size is halved, where the last strides of the layout are; "
        "the strides before become 1. All of the layout's by default",
    )
    stage_channels: list[int] | None = Field(
        None, description="in place of the layout's, before the multiplier"
    )
    stage_layers: int | None = Field(None, ge=1, description="of a stage, at most")
    head_channels: int | None = Field(
        None, ge=1, le=65536, description="of the last convolution, likewise"
    )
    activation: Literal["relu", "relu6", "hswish"] | None = Field(
        None, description="the layout's by default"
    )

    @field_validator("halvings")
    @classmethod
    def _at_most_the_layout_s(cls, value: int | None, info: ValidationInfo) -> int | None:
        layout = LAYOUTS.get(info.data.get("layout", ""))
        if value is not None and layout is not None and value > layout.halvings:
            raise ValueError(f"expected at most {layout.halvings}, the layout's")
        return value

    @field_validator("stage_channels")
    @classmethod
    def _one_a_stage(cls, value: list[int] | None, info: ValidationInfo) -> list[int] | None:
        layout = LAYOUTS.get(info.data.get("layout", ""))
        if value is not None and layout is not None:
            if len(value) != len(layout.stages) or not all(1 <= c <= 65536 for c in value):
                raise ValueError(f"expected {len(layout.stages)} numbers of channels")
        return value

    @property
    def layout_activation(self) -> str:
        """The activation of all layers."""
        return self.activation or LAYOUTS[self.layout].activation


@dataclass(frozen=True)
class Layer:
    """Where a layer stands: its sizes and name, and whether it can be skipped.

    The latter depends on the stated channels and strides alone, so that a supernet of another
    width has the same choices.
    """

    c_in: int
    c_out: int
    height: int
    width: int
    stride: int
    name: str = ""
    skippable: bool = False

    def spec(self, operator: str) -> OpSpec:
        """An operator at this place."""
        return OpSpec(operator, self.c_in, self.c_out, self.height, self.width, self.stride)


def lay_out(
    options: LayoutOptions, size: tuple[int, int]
) -> tuple[list[OpSpec], list[Layer], list[OpSpec]]:
    """The operators before the layers, the layers, and the operators behind them.

    Args:
        options: layout, channels and strides.
        size: height and width of what the first operator reads.
    """
    layout, activation = LAYOUTS[options.layout], options.layout_activation
    width = options.width_multiplier
    dropped = layout.halvings - (layout.halvings if options.halvings is None else options.halvings)
    channels = options.stage_channels or [stage[0] for stage in layout.stages]

    def advance(c_in: int, c_out: int, stride: int) -> Layer:
        """A place behind the last one; the first strides may be dropped."""
        nonlocal size, dropped
        if stride == 2 and dropped:
            stride, dropped = 1, dropped - 1
        layer = Layer(c_in, c_out, *size, stride)
        size = (out_size(size[0], stride), out_size(size[1], stride))
        return layer

    c_out = round_channels(width * layout.stem)
    stem = advance(options.input_channels, c_out, 2)
    fixed = [stem.spec(f"conv_bn_3x3_{activation}")]
    if layout.first is not None:
        c_in, c_out = c_out, round_channels(width * layout.first)
        fixed.append(advance(c_in, c_out, 1).spec(f"ds_conv_3x3_{activation}"))
    layers = []
    before = layout.first or layout.stem
    stages = zip(channels, layout.stages, strict=True)
    for number, (stated, (_, count, stride)) in enumerate(stages, start=1):
        for index in range(min(count, options.stage_layers or count)):
            name = f"stage{number}/layer{index + 1}"
            skippable = index > 0 or (stride == 1 and before == stated)
            c_in, c_out = c_out, round_channels(width * stated)
            layer = advance(c_in, c_out, stride if index == 0 else 1)
            layers.append(replace(layer, name=name, skippable=skippable))
        before = stated
    # A multiplier below 1 leaves the head as it is (MobileNetV2, section 6.1).
    features = round_channels(max(width, 1.0) * (options.head_channels or layout.head))
    head = [
        advance(c_out, features, 1).spec(f"conv_bn_1x1_{activation}"),
        options.head_operator(features, *size),
    ]
    return fixed, layers, head
