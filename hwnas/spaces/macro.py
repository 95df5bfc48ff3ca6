"""Layered networks that a user describes in TOML, as in Zoph & Le, "Neural Architecture Search with
Reinforcement Learning", ICLR 2017 (arXiv 1611.01578), section 4.1, and Baker et al., "Designing
Neural Network Architectures Using Reinforcement Learning", ICLR 2017 (arXiv 1611.02167).

A network is a 3x3 convolution, stages of layers, and a classifier. Every property of a stage is a
value or a list of values to choose from; a layer's choice is between their combinations, each one
operator. Every layer ends with the channels and at the size that its stage states, whatever its
convolution has, so that what a layer costs does not depend on its neighbours.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from torch import nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.macro import LINEAR, ConvolutionLayer, DenseLayer
from hwnas.ops.parts import ACTIVATIONS, out_size, sequential
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP, LayerSpace
from hwnas.spaces.options import SpaceOptions

MAX_OPTIONS = 64
"""Combinations that a layer may choose from."""
MAX_LAYERS = 64
MAX_WEIGHTS = 2**28
"""Of a dense layer."""


def _as_list(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else [value]


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("a value is stated twice")
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
    if name not in ACTIVATIONS:
        raise ValueError(f"expected one of {', '.join(ACTIVATIONS)}")
    return name


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
Activation = Annotated[str, AfterValidator(_known_activation)]


class Stage(BaseModel):
    """Layers with the same properties."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    operator: Several[Literal["conv", "separable", "dense"]] = Field(
        ["conv"], description="convolution, depthwise separable convolution, or linear layer"
    )
    layers: Annotated[Several[Count], AfterValidator(_consecutive)] = Field(
        [1], description="how many; those above the least may be skipped"
    )
    kernel: Several[Kernel] | None = Field(None, description="side, odd; 3 by default")
    width: Several[Channels] | None = Field(
        None, description="channels of the convolution, before the 1x1 one that leads to `channels`"
    )
    channels: Channels | None = Field(
        None, description="of every layer's output; the largest width by default"
    )
    stride: Several[Literal[1, 2, 4]] | None = Field(
        None, description="of the first layer's convolution; with pooling 1, else the reduction"
    )
    reduction: Literal[1, 2, 4] | None = Field(
        None, description="of the size by the first layer; the largest stride by default, or 1"
    )
    pooling: Several[Literal["max", "avg"]] | None = Field(
        None, description="pools that do what the stride leaves of the reduction"
    )
    activation: Several[Activation] = Field(["relu"])
    dropout: Several[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.0], description="behind each layer, in training alone"
    )

    @property
    def is_dense(self) -> bool:
        """Whether the layers are linear ones."""
        return self.operator == ["dense"]

    @property
    def out_channels(self) -> int:
        """Channels of every layer's output, as stated."""
        assert self.channels is not None or self.width is not None
        return self.channels or max(self.width or [])

    @property
    def reduced_by(self) -> int:
        """What the first layer divides the size by."""
        return self.reduction or max(self.stride or [1])

    @property
    def strides(self) -> list[int]:
        """Of the first layer's convolution."""
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
        # As many as all lists allow; some may be equal.
        lists: list[list[Any] | None] = [self.operator, self.activation, self.dropout]
        lists += [self.kernel, self.width, self.stride, self.pooling]
        options = math.prod(len(values) for values in lists if values)
        if options > MAX_OPTIONS:
            raise ValueError(f"expected at most {MAX_OPTIONS} combinations, got {options}")
        return self

    def _check_dense(self) -> None:
        if not self.is_dense:
            raise ValueError("operator: dense layers make stages of their own")
        for key in ("kernel", "stride", "reduction", "pooling"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key}: a dense layer has none")

    def _check_reduction(self) -> None:
        if any(self.reduced_by % stride for stride in self.strides):
            raise ValueError(f"stride: expected divisors of the reduction, {self.reduced_by}")
        left = [stride for stride in self.strides if stride < self.reduced_by]
        if left and self.pooling is None:
            raise ValueError(
                f"pooling: missing, stride {left[0]} leaves a reduction by "
                f"{self.reduced_by // left[0]}"
            )
        if self.pooling is not None and not left:
            raise ValueError("pooling: nothing is left to be reduced, state a larger reduction")


@dataclass(frozen=True)
class Place:
    """Shape of what a layer reads."""

    channels: int
    height: int
    width: int


class MacroOptions(SpaceOptions):
    """The stages, and what is around them."""

    stem_channels: Channels = Field(16, description="of the first convolution, which is 3x3")
    stem_stride: Literal[1, 2, 4] = 1
    width_multiplier: float = Field(1.0, gt=0, le=8, description="of all channels and widths")
    stages: list[Stage] = Field(min_length=1, max_length=MAX_LAYERS)

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
            if min(height, width) < reduction:
                raise ValueError(
                    f"{where}: maps of {height} x {width} cannot be reduced by {reduction}"
                )
            out = self.scaled(stage.out_channels)
            widest = max(self.scaled(max(stage.width or [stage.out_channels])), out)
            weights = widest * max(place.channels * height * width, widest)
            if stage.is_dense and weights > MAX_WEIGHTS:
                raise ValueError(
                    f"{where}: a dense layer of {weights} weights, expected at most {MAX_WEIGHTS}"
                )
        return self

    def scaled(self, channels: int) -> int:
        """Channels or a width after the multiplier."""
        return max(1, round(self.width_multiplier * channels))

    def places(self) -> list[Place]:
        """What each stage reads, and last what the classifier does."""
        c_in = self.scaled(self.stem_channels)
        size = out_size(self.height, self.stem_stride), out_size(self.width, self.stem_stride)
        places = [Place(c_in, *size)]
        for stage in self.stages:
            divisor = stage.reduced_by
            size = out_size(size[0], divisor), out_size(size[1], divisor)
            size = (1, 1) if stage.is_dense else size
            places.append(Place(self.scaled(stage.out_channels), *size))
        return places


@dataclass(frozen=True)
class LayerOption:
    """What a layer can be.

    Attributes:
        operator: at the stated width.
        stride: of its convolution.
        dropout: behind it, in training.
    """

    operator: ConvolutionLayer | DenseLayer
    stride: int
    dropout: float

    @property
    def name(self) -> str:
        """The option's name."""
        return self.operator.name + (f"_drop{self.dropout}" if self.dropout else "")


def example_options() -> dict[str, Any]:
    """The space in `macro_example.toml`."""
    text = (resources.files("hwnas.spaces") / "macro_example.toml").read_text()
    return {key: value for key, value in tomllib.loads(text).items() if key != "name"}


class MacroSpace(LayerSpace):
    """Stages of layers as the options describe them."""

    name = "macro"
    paper = (
        "Zoph & Le, Neural Architecture Search with Reinforcement Learning, ICLR 2017, arXiv "
        "1611.01578; Baker et al., Designing Neural Network Architectures using Reinforcement "
        "Learning, ICLR 2017, arXiv 1611.02167"
    )
    options_model = MacroOptions
    variants = {"example": example_options()}
    options: MacroOptions

    def __init__(self, options: MacroOptions) -> None:
        channels = options.input_channels, options.scaled(options.stem_channels)
        size = options.height, options.width, options.stem_stride
        self.stem = [OpSpec("conv_bn_3x3_relu", *channels, *size)]
        places = options.places()
        self.layers = [
            _Layer(
                f"stage{number}/layer{index + 1}",
                reads=after if index else before,
                c_out=after.channels,
                options={option.name: option for option in _layer_options(stage, index == 0)},
                skippable=index >= min(stage.layers),
            )
            for number, (stage, (before, after)) in enumerate(
                zip(options.stages, itertools.pairwise(places), strict=True), start=1
            )
            for index in range(max(stage.layers))
        ]
        end = places[-1]
        classifier = LINEAR if options.stages[-1].is_dense else "classifier"
        self.head = [OpSpec(classifier, end.channels, options.classes, end.height, end.width)]
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        return tuple(
            Choice(layer.name, (*layer.options, *[SKIP] * layer.skippable)) for layer in self.layers
        )

    def spec(self, choice: int, option: str) -> OpSpec:
        layer = self.layers[choice]
        reads = layer.reads
        if option == SKIP:
            return OpSpec(SKIP, reads.channels, layer.c_out, reads.height, reads.width)
        taken = layer.options[option]
        operator = taken.operator
        if operator.width is not None:
            operator = replace(operator, width=self.options.scaled(operator.width))
        return OpSpec(
            operator.name, reads.channels, layer.c_out, reads.height, reads.width, taken.stride
        )

    def layer(self, choice: int, option: str) -> nn.Module:
        operator = super().layer(choice, option)
        dropout = self.layers[choice].options[option].dropout
        return sequential(operator=operator, dropout=nn.Dropout(dropout)) if dropout else operator


@dataclass(frozen=True)
class _Layer:
    """A layer's name and sizes, and its options by name."""

    name: str
    reads: Place
    c_out: int
    options: dict[str, LayerOption]
    skippable: bool


def _layer_options(stage: Stage, is_first: bool) -> Iterator[LayerOption]:
    """All combinations of a stage's properties; only the first layer reduces the size."""
    reduction = stage.reduced_by if is_first else 1
    strides = stage.strides if is_first else [1]
    pools: list[str | None] = [*stage.pooling] if stage.pooling else [None]
    for kind, kernel, width, stride, pooling, activation, dropout in itertools.product(
        stage.operator,
        stage.kernel or [3],
        stage.width or [stage.out_channels],
        strides,
        pools,
        stage.activation,
        stage.dropout,
    ):
        hidden = None if width == stage.out_channels else width
        operator: ConvolutionLayer | DenseLayer
        if kind == "dense":
            operator = DenseLayer(hidden, activation)
        else:
            left = reduction // stride
            pool = pooling if left > 1 else None
            operator = ConvolutionLayer(kind, kernel, hidden, activation, pool, left)
        yield LayerOption(operator, stride, dropout)
