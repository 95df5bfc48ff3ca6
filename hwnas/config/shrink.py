"""The table of a configuration that says how a trained network is made smaller."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwnas.config.base import Section


class ShrinkConfig(Section):
    """How a trained network is made smaller."""

    rounds: int = Field(
        3, ge=1, le=20, description="rounds in which channels and blocks are taken away"
    )
    recovery_epochs: int = Field(
        1, ge=0, description="training epochs after each round but the last"
    )
    importance: Literal["taylor", "magnitude", "batch-norm"] = Field(
        "taylor", description="by what the channels of a layer are compared with each other"
    )
    importance_batches: int = Field(
        16, ge=1, description="training batches from which importance is estimated"
    )
    elastic: bool = Field(
        False,
        description="one training for all budgets of a family, whose networks share their weights, "
        "in place of rounds; set where several budgets are given",
    )
    variant: Literal["fp32", "int8-mixed"] = Field(
        "fp32",
        description="number format of the model that keeps the budget; with `int8-mixed`, those "
        "operators that are faster in int8 are quantised, and the network may be wider",
    )
    remove_blocks: bool = Field(True, description="whether residual blocks may be left out")
    resolutions: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=list,
        description="shares of the height and width of images to which the model may resize its "
        "inputs, as in [0.75, 0.5]; for networks that pool maps of any size",
    )
    most_operators: int = Field(
        300,
        ge=2,
        description="layers at different widths that are measured at most, about; the more, the "
        "finer are the widths that are offered",
    )
    step: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="widths are multiples of this number of channels where a layer has enough; "
        "measured on the runtime if not given",
    )
    mean: list[float] | None = Field(
        None,
        description="mean of each channel that images of integers are normalised with, after they "
        "were scaled to 0..1; that of the training images if not given",
    )
    std: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="standard deviation of each channel, likewise"
    )

    @model_validator(mode="after")
    def _moments_go_together(self) -> ShrinkConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither")
        return self
