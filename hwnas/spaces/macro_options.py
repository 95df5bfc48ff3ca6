"""The options of the macro space: the stages of a layered network that a user describes in TOML."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from hwnas.ops.macro import LAYER_ACTIVATIONS
from hwnas.ops.parts import out_size
from hwnas.spaces.options import SpaceOptions

MAX_OPTIONS = 64
"""The largest number of options of a layer."""
MAX_LAYERS = 64
"""The largest number of layers of a network."""
MAX_WEIGHTS = 2**28
"""The largest number of weights of a dense layer."""


def _as_list(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else [value]


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("a value is given twice")
    return values


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("expected an odd number")
    return kernel


def _consecutive(layers: list[int]) -> list[int]:
    if sorted(layers) != list(range(min(layers), max(layers) + 1)):
        raise ValueError("expected consecutive numbers of layers")
    return layers


def _known_activation(name: str) -> str:
    if name not in LAYER_ACTIVATIONS:
        raise ValueError(f"expected one of {', '.join(LAYER_ACTIVATIONS)}")
    return name


CONVOLUTIONAL = (
    *("kernel", "stride", "reduction", "pooling", "pool_size"),
    *("dilation", "groups", "norm", "residual"),
)
"""Properties that dense layers do not have."""

T = TypeVar("T")
Several = Annotated[
    list[T],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=16),
    AfterValidator(_distinct),
]
"""A value, or a list of values to choose from."""
Channels = Annotated[int, Field(ge=1, le=4096)]
Count = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Kernel = Annotated[int, Field(ge=1, le=15), AfterValidator(_odd)]
Stride = Annotated[int, Field(ge=1, le=4)]
Activation = Annotated[str, AfterValidator(_known_activation)]


class Stage(BaseModel):
    """A sequence of layers with the same properties."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    operator: Several[Literal["conv", "separable", "dense"]] = Field(
        ["conv"], description="convolution, depthwise separable convolution, or linear layer"
    )
    layers: Annotated[Several[Count], AfterValidator(_consecutive)] = Field(
        [1], description="number of layers; those beyond the smallest number may be skipped"
    )
    kernel: Several[Kernel] | None = Field(
        None, description="side of the kernel, odd; 3 by default"
    )
    width: Several[Channels] | None = Field(
        None,
        description="channels of the convolution; a 1x1 convolution maps them to `channels`",
    )
    channels: Channels | None = Field(
        None, description="output channels of every layer; the largest width by default"
    )
    stride: Several[Stride] | None = Field(
        None,
        description="stride of the first layer's convolution; by default 1 with pooling, and the "
        "reduction without",
    )
    reduction: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None,
        description="factor by which the first layer divides height and width, rounding up; by "
        "default the smallest number that all strides divide",
    )
    pooling: Several[Literal["max", "avg"]] | None = Field(
        None, description="kind of pool that makes up for a stride smaller than the reduction"
    )
    pool_size: Several[Annotated[int, Field(ge=2, le=16)]] | None = Field(
        None,
        description="side of the pool's windows, whose distance follows from the reduction; by "
        "default twice the distance less one",
    )
    dilation: Several[Annotated[int, Field(ge=1, le=8)]] = Field(
        [1], description="distance of the convolution's taps"
    )
    groups: Several[Channels] = Field(
        [1], description="groups of channels of a convolution that is not separable"
    )
    activation: Several[Activation] = Field(
        ["relu"], description=f"one of {', '.join(LAYER_ACTIVATIONS)}"
    )
    norm: Several[Literal["batch", "none"]] = Field(
        ["batch"], description="batch norm behind every convolution, or biases in place of it"
    )
    residual: Several[bool] = Field(
        [False], description="whether a layer adds its input, where that has the output's shape"
    )
    dropout: Several[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.0], description="probability of dropout behind each layer, in training only"
    )

    @property
    def is_dense(self) -> bool:
        """Whether the layers are linear layers."""
        return self.operator == ["dense"]

    @property
    def out_channels(self) -> int:
        """The output channels of every layer, before the width multiplier."""
        assert self.channels is not None or self.width is not None
        return self.channels or max(self.width or [])

    @property
    def widths(self) -> list[int]:
        """The widths to choose from, before the width multiplier."""
        return self.width or [self.out_channels]

    def hidden(self, width: int) -> int | None:
        """The width as an operator states it: None where it is that of the output."""
        return None if width == self.out_channels else width

    @property
    def reduced_by(self) -> int:
        """The factor by which the first layer divides height and width."""
        return self.reduction or math.lcm(*(self.stride or [1]))

    @property
    def strides(self) -> list[int]:
        """The strides of the first layer's convolution to choose from."""
        if self.stride is None:
            return [1 if self.pooling else self.reduced_by]
        return list(self.stride)

    @model_validator(mode="after")
    def _properties_go_together(self) -> Stage:
        if self.width is None and self.channels is None:
            raise ValueError("expected width or channels")
        if "dense" in self.operator:
            self._check_dense()
        else:
            self._check_reduction()
        # An upper bound, since some combinations may give the same operator.
        lists: list[list[Any] | None] = [self.operator, self.activation, self.dropout]
        lists += [self.kernel, self.width, self.stride, self.pooling, self.pool_size]
        lists += [self.dilation, self.groups, self.norm, self.residual]
        options = math.prod(len(values) for values in lists if values)
        if options > MAX_OPTIONS:
            raise ValueError(f"expected at most {MAX_OPTIONS} combinations, got {options}")
        return self

    def _check_dense(self) -> None:
        if not self.is_dense:
            raise ValueError("operator: dense layers need a stage of their own")
        for key in CONVOLUTIONAL:
            if getattr(self, key) != Stage.model_fields[key].default:
                raise ValueError(f"{key}: not allowed for dense layers")

    def _check_reduction(self) -> None:
        if any(self.reduced_by % stride for stride in self.strides):
            raise ValueError(f"stride: expected divisors of the reduction, {self.reduced_by}")
        left = [stride for stride in self.strides if stride < self.reduced_by]
        if left and self.pooling is None:
            raise ValueError(
                f"pooling: missing, after stride {left[0]} the size has still to be divided by "
                f"{self.reduced_by // left[0]}"
            )
        if self.pooling is not None and not left:
            raise ValueError(
                "pooling: the stride reduces the size already, give a larger reduction"
            )
        if self.pool_size is not None and self.pooling is None:
            raise ValueError("pool_size: there is no pool, give pooling")
        if self.groups != [1] and "conv" not in self.operator:
            raise ValueError("groups: separable convolutions have none")


@dataclass(frozen=True)
class Place:
    """The shape (C, H, W) of a layer's input."""

    channels: int
    height: int
    width: int


class MacroOptions(SpaceOptions):
    """The stages of the networks, and the stem before them."""

    stem_channels: Channels = Field(
        16, description="channels of the first convolution, which is 3x3"
    )
    stem_stride: Literal[1, 2, 4] = Field(1, description="stride of the first convolution")
    width_multiplier: float = Field(
        1.0, gt=0, le=8, description="multiplies all channels and widths"
    )
    stages: list[Stage] = Field(
        min_length=1,
        max_length=MAX_LAYERS,
        description="the layers of each stage; see `docs/add_a_space.md`",
    )

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> MacroOptions:
        if sum(max(stage.layers) for stage in self.stages) > MAX_LAYERS:
            raise ValueError(f"stages: expected at most {MAX_LAYERS} layers in all")
        was_dense = False
        for number, (stage, place) in enumerate(zip(self.stages, self.places()[:-1], strict=True)):
            where = f"stages.{number}"
            if was_dense and not stage.is_dense:
                raise ValueError(f"{where}.operator: no convolution can follow a dense layer")
            was_dense = stage.is_dense
            height, width, reduction = place.height, place.width, stage.reduced_by
            # Signals are maps of height 1, of which only the width is reduced.
            if width < reduction or 1 < height < reduction:
                raise ValueError(
                    f"{where}: maps of {height} x {width} cannot be reduced by {reduction}"
                )
            out = self.scaled(stage.out_channels)
            widest = max(self.scaled(max(stage.widths)), out)
            divided = [place.channels, *map(self.scaled, stage.widths)]
            divided += [out] * (max(stage.layers) > 1)
            for groups, channels in itertools.product(stage.groups, divided):
                if channels % groups:
                    raise ValueError(
                        f"{where}.groups: {channels} channels cannot be divided by {groups}"
                    )
            weights = widest * max(place.channels * height * width, widest)
            if stage.is_dense and weights > MAX_WEIGHTS:
                raise ValueError(
                    f"{where}: a dense layer of {weights} weights, expected at most {MAX_WEIGHTS}"
                )
        return self

    def scaled(self, channels: int) -> int:
        """A number of channels after the width multiplier."""
        return max(1, round(self.width_multiplier * channels))

    def places(self) -> list[Place]:
        """The input shape of each stage, followed by that of the classifier."""
        c_in = self.scaled(self.stem_channels)
        size = out_size(self.height, self.stem_stride), out_size(self.width, self.stem_stride)
        places = [Place(c_in, *size)]
        for stage in self.stages:
            divisor = stage.reduced_by
            size = out_size(size[0], divisor), out_size(size[1], divisor)
            size = (1, 1) if stage.is_dense else size
            places.append(Place(self.scaled(stage.out_channels), *size))
        return places
