"""Vision transformers with elastic sizes, the space of AutoFormer.

Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021 (arXiv
2107.00651), on the networks of Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021
(arXiv 2010.11929), and Touvron et al., "Training Data-Efficient Image Transformers & Distillation
through Attention" (DeiT), ICML 2021 (arXiv 2012.12877).

A network embeds the patches of an image as tokens and applies a chain of encoder blocks. The number
of embedding channels is one choice. The two halves of each block are further choices: the number of
heads of the attention, and the ratio of hidden to embedding channels of the MLP. In the last blocks
either half can also be skipped, which makes the depth searchable.

The cost of a half depends on the number of embedding channels, which is the size of `SizedSpace`.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import out_size
from hwnas.ops.tokens import HEADS, MLP_RATIOS, PATCH_EMBEDDING
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP
from hwnas.spaces.layouts import IMAGENET
from hwnas.spaces.networks import Network
from hwnas.spaces.options import SpaceOptions, Variants
from hwnas.spaces.sized import SIZE, SizedSpace
from hwnas.spaces.vit_networks import VitNetwork, VitSupernet


class VitOptions(SpaceOptions):
    """Sizes of the networks; the defaults are AutoFormer's smallest space (the paper's table 1)."""

    patch: int = Field(16, ge=1, le=256, description="side of a patch, in pixels")
    embeddings: list[Annotated[int, Field(ge=1, le=8192)]] = Field(
        [192, 216, 240],
        min_length=1,
        max_length=8,
        description="numbers of embedding channels to choose from",
    )
    heads: list[Annotated[int, Field(ge=1, le=HEADS[-1])]] = Field(
        [3, 4], min_length=1, max_length=8, description="numbers of heads to choose from"
    )
    head_channels: Literal[4, 8, 16, 32, 64] = Field(64, description="channels of each head")
    mlp_ratios: list[float] = Field(
        [3.5, 4.0],
        min_length=1,
        max_length=8,
        description="ratios of hidden to embedding channels to choose from",
    )
    blocks: int = Field(14, ge=1, le=48, description="largest number of blocks")
    fixed_blocks: int = Field(12, ge=0, description="number of first blocks that cannot be skipped")

    @field_validator("embeddings", "heads", "mlp_ratios")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if any(first >= second for first, second in pairwise(value)):
            raise ValueError("expected ascending numbers")
        return value

    @field_validator("mlp_ratios")
    @classmethod
    def _known(cls, value: list[float]) -> list[float]:
        if not set(value) <= set(MLP_RATIOS):
            raise ValueError(f"expected multiples of 0.5 up to {MLP_RATIOS[-1]:g}")
        return value

    @field_validator("fixed_blocks")
    @classmethod
    def _at_most_all(cls, value: int, info: ValidationInfo) -> int:
        blocks = info.data.get("blocks", value)
        if value > blocks:
            raise ValueError(f"expected at most {blocks}, the number of blocks")
        return value


class VitSpace(SizedSpace):
    """The choices are `embedding`, then `block1/attention`, `block1/mlp` ... for each block."""

    name = "vit"
    paper = (
        "Chen et al., AutoFormer: Searching Transformers for Visual Recognition, ICCV 2021, "
        "arXiv 2107.00651; Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for "
        "Image Recognition at Scale, ICLR 2021, arXiv 2010.11929"
    )
    options_model = VitOptions
    # Table 1 of the AutoFormer paper.
    variants: ClassVar[Variants] = {
        "autoformer-tiny": IMAGENET,
        "autoformer-small": {
            "embeddings": [320, 384, 448],
            "heads": [5, 6, 7],
            "mlp_ratios": [3.0, 3.5, 4.0],
            **IMAGENET,
        },
        "autoformer-base": {
            "embeddings": [528, 576, 624],
            "heads": [8, 9, 10],
            "mlp_ratios": [3.0, 3.5, 4.0],
            "blocks": 16,
            "fixed_blocks": 14,
            **IMAGENET,
        },
    }
    options: VitOptions

    def __init__(self, options: VitOptions) -> None:
        self.grid = (
            out_size(options.height, options.patch),
            out_size(options.width, options.patch),
        )
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        options = self.options
        attentions = tuple(f"attention_h{heads}" for heads in options.heads)
        mlps = tuple(f"mlp_r{ratio:g}" for ratio in options.mlp_ratios)
        choices = [Choice("embedding", tuple(f"c{channels}" for channels in options.embeddings))]
        for number in range(1, options.blocks + 1):
            skip = (SKIP,) if number > options.fixed_blocks else ()
            choices.append(Choice(f"block{number}/attention", (*attentions, *skip)))
            choices.append(Choice(f"block{number}/mlp", (*mlps, *skip)))
        return tuple(choices)

    def _has_operator(self, row: int, option: int) -> bool:
        return self.choices[row].options[option] != SKIP

    def spec(self, row: int, option: str, embedding: int) -> OpSpec:
        """The operator of an option that is not a skip, for a number of embedding channels."""
        name = f"{option}_d{self.options.head_channels}" if "attention" in option else option
        return OpSpec(name, embedding, embedding, *self.grid)

    def patches(self, embedding: int) -> OpSpec:
        """The operator that embeds the patches, for a number of embedding channels."""
        sizes = self.options
        return OpSpec(
            PATCH_EMBEDDING, sizes.input_channels, embedding, sizes.height, sizes.width, sizes.patch
        )

    def head(self, embedding: int) -> OpSpec:
        """The operator that classifies, for a number of embedding channels."""
        return OpSpec("token_classifier", embedding, self.options.classes, *self.grid)

    def operators(self, choice: int, part: int) -> Counter[OpSpec]:
        embedding = self.options.embeddings[self.part_size[choice, part]]
        if choice == SIZE:
            return Counter([self.patches(embedding), self.head(embedding)])
        option = self.choices[choice].options[self.part_option[choice, part]]
        return Counter([] if option == SKIP else [self.spec(choice, option, embedding)])

    def fixed_operators(self) -> Counter[OpSpec]:
        """None, since every operator depends on the embedding."""
        return Counter()

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)

    def sample(self, rng: np.random.Generator) -> Architecture:
        return self.architecture([int(rng.integers(len(c.options))) for c in self.choices])

    def to_genotype(self, architecture: Architecture) -> dict[str, Any]:
        """Embedding channels, and heads and MLP ratio of each block, which are 0 if skipped."""
        sizes = self.options
        embedding, *halves = self.chosen(architecture)
        heads, ratios = [*sizes.heads, 0], [*sizes.mlp_ratios, 0]
        return {
            "embedding": sizes.embeddings[embedding],
            "heads": [heads[option] for option in halves[::2]],
            "mlp_ratios": [ratios[option] for option in halves[1::2]],
        }

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read the notation that `to_genotype` writes."""
        count = self.options.blocks
        expected = f"an object of embedding, and of {count} heads and mlp_ratios"
        try:
            embedding, heads = genotype["embedding"], genotype["heads"]
            ratios = genotype["mlp_ratios"]
            names = [f"c{embedding:d}"]
            for of_heads, ratio in zip(heads, ratios, strict=True):
                names.append(f"attention_h{of_heads:d}" if of_heads else SKIP)
                names.append(f"mlp_r{ratio:g}" if ratio else SKIP)
            chosen = dict(zip((choice.name for choice in self.choices), names, strict=True))
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError(
                "malformed", where="genotype", expected=expected, actual=repr(genotype)
            ) from None
        return self.architecture(chosen)

    def supernet(self, partial_channels: int = 1) -> VitSupernet:
        return VitSupernet(self)

    def network(self, architecture: Architecture) -> Network:
        return VitNetwork(self, architecture)
