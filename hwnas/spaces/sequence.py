"""Sequence models: a chain of recurrent, convolutional, attention and feed-forward layers.

Choosing the operation of each layer follows So, Liang & Le, "The Evolved Transformer", ICML 2019
(arXiv 1901.11117), whose space contains convolutions, attention and identities. Here there are also
recurrent layers, all layers have the same width, and each has a residual connection.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from hwnas.latency_tables.table import OpSpec
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
    reads_tokens = True
    reads_categories = True
    variants: ClassVar[Variants] = {
        "text": {"vocabulary": 10_000, "width": 64, "input_channels": 1, "height": 1},
        "table": {"blocks": TABLE, "input_channels": 16, "height": 1, "width": 1, "classes": 1},
    }
    options: SequenceOptions

    def __init__(self, options: SequenceOptions) -> None:
        channels, steps = options.channels, options.width
        self.stem = [
            stem_operator(options.vocabulary, options.input_shape, channels, options.categories)
        ]
        self.head = [options.head_operator(channels, 1, steps)]
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        blocks = (*self.options.blocks, SKIP)
        return tuple(Choice(f"stage1/layer{i + 1}", blocks) for i in range(self.options.layers))

    def spec(self, choice: int, option: str) -> OpSpec:
        return OpSpec(option, self.options.channels, self.options.channels, 1, self.options.width)
