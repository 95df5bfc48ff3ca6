"""The macro space: layered networks that a user describes in TOML.

The hyperparameters of each layer are searched, as in Zoph & Le, "Neural Architecture Search with
Reinforcement Learning", ICLR 2017 (arXiv 1611.01578), section 4.1, and Baker et al., "Designing
Neural Network Architectures Using Reinforcement Learning", ICLR 2017 (arXiv 1611.02167).

A network is a 3x3 convolution, stages of layers, and a classifier. Every property of a stage is a
value or a list of values to choose from, and the options of a layer are all combinations of these
values, each of which is one operator. The output of every layer has the channels and the size of
its stage, whatever its convolution has, so that the cost of a layer does not depend on its
neighbours.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, ClassVar

from torch import nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.macro import LINEAR, ConvolutionLayer, DenseLayer, Pool
from hwnas.ops.parts import sequential
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP, LayerSpace
from hwnas.spaces.macro_options import MacroOptions, Place, Stage
from hwnas.spaces.options import Variants


@dataclass(frozen=True)
class LayerOption:
    """An option of a layer.

    Attributes:
        operator: the operator, before channels are multiplied by the width multiplier.
        stride: of its convolution.
        dropout: probability of the dropout behind it, in training.
    """

    operator: ConvolutionLayer | DenseLayer
    stride: int
    dropout: float

    @property
    def name(self) -> str:
        """The name of the option."""
        return self.operator.name + (f"_drop{self.dropout}" if self.dropout else "")


def example_options() -> dict[str, Any]:
    """The options of the example space in `macro_example.toml`."""
    text = (resources.files("hwnas.spaces") / "macro_example.toml").read_text("utf-8")
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
    variants: ClassVar[Variants] = {"example": example_options()}
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
                options={
                    option.name: option
                    for option in _layer_options(stage, after if index else before, after)
                },
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
    """The name, sizes and options of a layer.

    Attributes:
        name: of the layer's choice.
        reads: shape of the input.
        c_out: output channels.
        options: by name, without the skip.
        skippable: whether the layer can be skipped.
    """

    name: str
    reads: Place
    c_out: int
    options: dict[str, LayerOption]
    skippable: bool


def _pool(kind: str | None, reduction: int, window: int | None) -> Pool | None:
    """The pool that does what a stride has left, if anything."""
    if kind is None or reduction == 1:
        return None
    return Pool(kind, reduction, None if window == 2 * reduction - 1 else window)


def _layer_options(stage: Stage, reads: Place, after: Place) -> Iterator[LayerOption]:
    """All combinations of a stage's properties for a layer between two shapes of maps.

    Only the first layer of a stage reduces the size.
    """
    if stage.is_dense:
        for width, activation, dropout in itertools.product(
            stage.widths, stage.activation, stage.dropout
        ):
            yield LayerOption(DenseLayer(stage.hidden(width), activation), 1, dropout)
        return
    is_first = reads != after
    pools: list[str | None] = [*stage.pooling] if stage.pooling else [None]
    windows: list[int | None] = [*stage.pool_size] if stage.pool_size else [None]
    reduction = stage.reduced_by if is_first else 1
    convolutions = itertools.product(
        stage.operator,
        stage.kernel or [3],
        stage.widths,
        stage.strides if is_first else [1],
        pools,
        windows,
    )
    properties = itertools.product(
        stage.activation, stage.dilation, stage.groups, stage.norm, stage.residual, stage.dropout
    )
    for convolution, others in itertools.product(convolutions, properties):
        kind, kernel, width, stride, pooling, window = convolution
        activation, dilation, groups, norm, residual, dropout = others
        operator = ConvolutionLayer(
            kind,
            kernel,
            stage.hidden(width),
            activation,
            _pool(pooling, reduction // stride, window),
            dilation if kernel > 1 else 1,
            groups if kind == "conv" else 1,
            norm == "batch",
            residual and not is_first,
        )
        yield LayerOption(operator, stride, dropout)
