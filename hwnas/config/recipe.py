"""The table of a configuration with what a search chooses beside the architecture."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwnas.config.base import Section

Confidence = Literal["low", "medium", "high"]
"""How sure the user is of a prior."""
SEARCHED = (
    "epochs",
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "gradient_clip",
    "label_smoothing",
    "warmup",
    "drop_path",
    "ema_decay",
    "crop_padding",
    "cutout",
    "scale",
    "random_erasing",
    "rand_augment",
    "mixup",
    "cutmix",
    "time_mask",
    "frequency_mask",
    "time_shift",
    "noise",
    "token_dropout",
)
"""The settings of `[train]` that can be searched."""
WHOLE = (
    "epochs",
    "batch_size",
    "crop_padding",
    "cutout",
    "rand_augment",
    "time_mask",
    "frequency_mask",
    "time_shift",
)
"""Those of them that are whole numbers."""


class RangeConfig(Section):
    """The values that a setting of `[train]` can take in a search: a range or a list."""

    low: float | None = Field(None, description="least value")
    high: float | None = Field(None, description="largest value")
    log: bool = Field(False, description="search the logarithm of the value")
    options: Annotated[list[float], Field(min_length=2)] | None = Field(
        None, description="the values to choose from, in place of a range"
    )
    prior: float | None = Field(None, description="the value that the user expects to be best")
    confidence: Confidence = Field("medium", description="how sure the user is of the prior")

    @model_validator(mode="after")
    def _is_a_range_or_a_list(self) -> RangeConfig:
        if (self.options is None) == (self.low is None or self.high is None):
            raise ValueError("give either options, or both low and high")
        if self.options is None:
            assert self.low is not None and self.high is not None
            if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
                raise ValueError("low has to be below high, and both have to be finite")
            if self.log and self.low <= 0:
                raise ValueError("a logarithm needs low above 0")
            if self.prior is not None and not self.low <= self.prior <= self.high:
                raise ValueError("the prior has to be within the range")
        elif self.log or len(set(self.options)) < len(self.options):
            raise ValueError("options are different values, without log")
        elif self.prior is not None and self.prior not in self.options:
            raise ValueError("the prior has to be one of the options")
        return self
