"""The options that every search space has: input shape, number of outputs and kind of head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwnas.data.inputs import InputShape
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.heads import FACTORS, Head
from hwnas.ops.sequences import MOST_CODES

Variants = Mapping[str, Mapping[str, Any]]
"""Sets of options of a space, by name."""


class SpaceOptions(BaseModel):
    """What the networks of a space read and predict; each space adds options of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_channels: int = Field(3, ge=1, le=100_000, description="channels of the input")
    height: int = Field(32, ge=1, le=4096, description="height of the input")
    width: int = Field(32, ge=1, le=4096, description="width of the input; for tokens their number")
    classes: int = Field(
        10, ge=1, le=100_000, description="length of each output vector of the head"
    )
    head: Head = Field(
        "classifier",
        description="one output vector for each sample (classifier), for each position of the "
        "feature map (dense), for each position of the input (upsampled), for each token of a text "
        "(positions), or for each pixel of an image to be generated (image)",
    )
    vocabulary: int | None = Field(
        None,
        ge=2,
        le=100_000,
        description="inputs are token ids below this number; by default inputs are numeric",
    )
    categories: list[int] = Field(
        [],
        description="number of codes of each of the last columns of a table, which are categories",
    )
    image_size: list[int] = Field(
        [], description="height and width of the images to be generated, for the head of that kind"
    )
    padding: bool = Field(
        False,
        description="token 0 fills short texts; networks of the space sequence leave it out of "
        "everything that they compute",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> SpaceOptions:
        numbers = all(1 < count <= MOST_CODES for count in self.categories)
        if not numbers or len(self.categories) > self.input_channels:
            raise ValueError(f"expected 2 to {MOST_CODES} codes for each of the last columns")
        if self.padding and self.vocabulary is None:
            raise ValueError("only texts are padded")
        if self.image_size and not (
            len(self.image_size) == 2 and all(0 < side <= 4096 for side in self.image_size)
        ):
            raise ValueError("expected image_size = [height, width], each from 1 to 4096")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W), or (L,) for tokens."""
        if self.vocabulary is not None:
            return (self.width,)
        return self.input_channels, self.height, self.width

    @property
    def reads(self) -> InputShape:
        """What a network reads: the shape of its input, or its inputs if there are several."""
        return self.input_shape

    def head_operator(self, c_in: int, height: int, width: int) -> OpSpec:
        """The operator that maps the last feature map to the network's output.

        Args:
            c_in: channels of the feature map.
            height: its height.
            width: its width.

        Raises:
            InputError: when an upsampled head cannot enlarge the features to the input's size.
        """
        if self.head != "upsampled":
            return OpSpec(self.head, c_in, self.classes, height, width)
        factor = -(-self.height // height)
        enlarged = (factor * height, factor * width) == (self.height, self.width)
        if not enlarged or factor not in FACTORS:
            raise InputError(
                "the last features cannot be enlarged to the input's size",
                where="space",
                expected=f"{self.height} x {self.width}, one of {FACTORS} times as large",
                actual=f"features of {height} x {width}",
            )
        return OpSpec(f"upsampled_x{factor}", c_in, self.classes, height, width)
