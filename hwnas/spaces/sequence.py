"""Sequence models: a chain of recurrent, convolutional, attention and feed-forward layers.

Choosing the operation of each layer follows So, Liang & Le, "The Evolved Transformer", ICML 2019
(arXiv 1901.11117), whose space contains convolutions, attention and identities. Here there are also
recurrent layers, all layers have the same width, and each has a residual connection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.masked import masked_name
from hwnas.ops.sequences import HEADS, SEQUENCE_BLOCKS, stem_operator
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP, LayerSpace
from hwnas.spaces.options import SpaceOptions, Variants

SEQUENCE = ("lstm", "gru", "conv1d_3", "conv1d_7", "attention1d_h4")
"""Blocks for sequences."""
TABLE = ("feedforward1d_e1", "feedforward1d_e2", "feedforward1d_e4")
"""Blocks for tabular data, whose samples are sequences of one step."""


class SequenceOptions(SpaceOptions):
    """Sizes of the networks; a sequence has as many steps as the input has columns."""

    layers: int = Field(4, ge=1, le=100, description="number of layers")
    channels: int = Field(
        64, ge=max(HEADS), le=4096, multiple_of=max(HEADS), description="channels of every layer"
    )
    blocks: tuple[str, ...] = Field(
        SEQUENCE, min_length=1, description="the options of a layer, apart from skipping it"
    )

    @field_validator("blocks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not set(value) <= set(SEQUENCE_BLOCKS) or len(set(value)) < len(value):
            raise ValueError(f"expected distinct names among {', '.join(SEQUENCE_BLOCKS)}")
        return value


class SequenceSpace(LayerSpace):
    """Chains of residual blocks; the choices are `stage1/layer1` ..., from first to last."""

    name = "sequence"
    paper = (
        "after So, Liang & Le, The Evolved Transformer, ICML 2019, arXiv 1901.11117, with "
        "recurrent layers"
    )
    options_model = SequenceOptions
    heads = ("classifier", "positions")
    reads_tokens = True
    reads_categories = True
    variants: ClassVar[Variants] = {
        "text": {"vocabulary": 10_000, "width": 64, "input_channels": 1, "height": 1},
        "table": {"blocks": TABLE, "input_channels": 16, "height": 1, "width": 1, "classes": 1},
    }
    options: SequenceOptions

    def __init__(self, options: SequenceOptions) -> None:
        channels, steps = options.channels, options.width
        reads = options.vocabulary, options.input_shape, channels, options.categories
        self.stem = [self._named(stem_operator(*reads), options)]
        self.head = [self._named(options.head_operator(channels, 1, steps), options)]
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        blocks = (*self.options.blocks, SKIP)
        return tuple(Choice(f"stage1/layer{i + 1}", blocks) for i in range(self.options.layers))

    def spec(self, choice: int, option: str) -> OpSpec:
        options = self.options
        block = OpSpec(option, options.channels, options.channels, 1, options.width)
        return block if option == SKIP else self._named(block, options)

    @staticmethod
    def _named(spec: OpSpec, options: SequenceOptions) -> OpSpec:
        """The operator, in the form that leaves padding out where texts have it."""
        return replace(spec, name=masked_name(spec.name)) if options.padding else spec
