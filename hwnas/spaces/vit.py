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
import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_tokens import (
    MixedAttention,
    MixedMlp,
    MixedTokens,
    layer_norm,
    linear,
    patch_embedding,
)
from hwnas.ops import build
from hwnas.ops.parts import out_size
from hwnas.ops.tokens import HEADS, MLP_RATIOS, PATCH_EMBEDDING, Attention, Mlp, PatchEmbedding
from hwnas.spaces.cells import drop_path
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import SKIP
from hwnas.spaces.layouts import IMAGENET
from hwnas.spaces.networks import Network
from hwnas.spaces.options import SpaceOptions, Variants
from hwnas.spaces.sharing import SharedSupernet
from hwnas.spaces.sized import SIZE, SizedSpace


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


INITIAL_STD = 0.02
"""Standard deviation of the initial weights of linear layers, as in DeiT."""


class VitSupernet(SharedSupernet):
    """The largest network, of which all other networks are parts.

    A mixture of embeddings is the weighted sum of the logits with each of them, which takes the
    time and memory of all of them together. A single path needs those of one network.
    """

    def __init__(self, space: VitSpace) -> None:
        super().__init__()
        self.space = space
        sizes = space.options
        self.embeddings = tuple(sizes.embeddings)
        largest = self.embeddings[-1]
        self.stem = build(space.patches(largest))
        heads, ratios = [*sizes.heads, 0], [*sizes.mlp_ratios, 0.0]
        self.halves = nn.ModuleList()
        for choice in space.choices[1:]:
            count = len(choice.options)
            half: MixedTokens
            if choice.name.endswith("attention"):
                half = MixedAttention(largest, heads[:count], sizes.head_channels)
            else:
                half = MixedMlp(largest, ratios[:count])
            self.halves.append(half)
        self.head = build(space.head(largest))
        initialise(self)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        active = mixture.active_options(SIZE)
        options = range(len(self.embeddings)) if active is None else active
        weights = mixture.weights[SIZE].to(x.dtype)
        return torch.stack([weights[k] * self._logits(x, mixture, k) for k in options]).sum(dim=0)

    def _logits(self, x: Tensor, mixture: Mixture, option: int) -> Tensor:
        """The logits with one of the embeddings."""
        assert isinstance(self.stem, PatchEmbedding)
        x = patch_embedding(self.stem, x, self.embeddings[option])
        for row, half in enumerate(self.halves, start=1):
            x = half(x, mixture, row)
        norm, fc = self.head.norm, self.head.fc
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(fc, nn.Linear)
        return linear(fc, layer_norm(norm, x).mean(dim=1), fc.out_features)

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        with torch.device("meta"):
            shapes = self.space.network(architecture).state_dict()
        whole = self.state_dict()
        kept = [row for row, (_, option) in enumerate(list(architecture)[1:]) if option != SKIP]
        state = {}
        for name, part in shapes.items():
            place = name.split(".")
            if place[0] == "halves":
                place[1:2] = [str(kept[int(place[1])]), "largest"]
            first = tuple(slice(size) for size in part.shape)
            state[name] = whole[".".join(place)][first].clone()
        return state


class VitNetwork(Network):
    """The network of one architecture, without the halves of blocks that it skips."""

    def __init__(self, space: VitSpace, architecture: Architecture) -> None:
        super().__init__()
        embedding = space.options.embeddings[space.chosen(architecture)[SIZE]]
        self.stem = build(space.patches(embedding))
        kept = [
            (row, name, option) for row, (name, option) in enumerate(architecture) if option != SKIP
        ][1:]
        self.halves = nn.ModuleList(
            build(space.spec(row, option, embedding)) for row, _, option in kept
        )
        self.head = build(space.head(embedding))
        initialise(self)
        first = space.choices[SIZE].name
        self.choice_modules = {"stem": first, "head": first}
        self.choice_modules |= {f"halves.{i}": name for i, (_, name, _) in enumerate(kept)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for half in self.halves:
            assert isinstance(half, Attention | Mlp)
            if self.training and self.drop_path > 0:
                x = x + drop_path(half.branch(x), self.drop_path)
            else:
                x = half(x)
        logits: Tensor = self.head(x)
        return logits


def initialise(module: nn.Module) -> None:
    """Initialise linear layers as in DeiT: truncated normal weights, and biases of zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)
            nn.init.zeros_(layer.bias)
