"""Layers of sequences: each is an LSTM, a GRU, a convolution along the steps, self-attention or a
feedforward block, or is skipped.

The choice of operation by layer follows So, Liang & Le, "The Evolved Transformer", ICML 2019
(arXiv 1901.11117), whose search space has convolutions, attention and identities of one width;
recurrent layers are added here, and the layers form one row with a residual connection each.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.sequences import HEADS, SEQUENCE_BLOCKS, stem_operator
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP, LayerSpace
from hwnas.spaces.options import SpaceOptions

SEQUENCE = ("lstm", "gru", "conv1d_3", "conv1d_7", "attention1d_h4")
TABLE = ("feedforward1d_e1", "feedforward1d_e2", "feedforward1d_e4")


class SequenceOptions(SpaceOptions):
    """Sizes of the networks; a sequence has as many steps as its input has columns."""

    layers: int = Field(4, ge=1, le=100)
    channels: int = Field(64, ge=max(HEADS), le=4096, multiple_of=max(HEADS))
    blocks: tuple[str, ...] = Field(
        SEQUENCE, min_length=1, description="what a layer can be, besides skipped"
    )

    @field_validator("blocks")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not set(value) <= set(SEQUENCE_BLOCKS) or len(set(value)) < len(value):
            raise ValueError(f"expected different ones of {', '.join(SEQUENCE_BLOCKS)}")
        return value


class SequenceSpace(LayerSpace):
    """Rows of residual blocks of sequences; choices are `stage1/layer1` ... in order."""

    name = "sequence"
    paper = (
        "after So, Liang & Le, The Evolved Transformer, ICML 2019, arXiv 1901.11117, with "
        "recurrent layers"
    )
    options_model = SequenceOptions
    reads_tokens = True
    variants = {
        "text": {"vocabulary": 10_000, "width": 64, "input_channels": 1, "height": 1},
        "table": {"blocks": TABLE, "input_channels": 16, "height": 1, "width": 1, "classes": 1},
    }
    options: SequenceOptions

    def __init__(self, options: SequenceOptions) -> None:
        channels, steps = options.channels, options.width
        self.stem = [stem_operator(options.vocabulary, options.input_shape, channels)]
        self.head = [options.head_operator(channels, 1, steps)]
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        blocks = (*self.options.blocks, SKIP)
        return tuple(Choice(f"stage1/layer{i + 1}", blocks) for i in range(self.options.layers))

    def spec(self, choice: int, option: str) -> OpSpec:
        return OpSpec(option, self.options.channels, self.options.channels, 1, self.options.width)
