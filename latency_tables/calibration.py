"""Predicting whole networks: coefficients fitted to measured networks, and their evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EdgeRule = Literal["live", "once", "read", "all"]
"""Which edges of a cell a runtime executes.

- `live`: those on a path from the cell's input to its output (dead-code elimination).
- `once`: as `live`, and equal operators without weights that read the same input are executed
  once (common subexpression elimination).
- `read`: those whose result leads to the output, unless the whole cell is a constant.
- `all`: every edge, including those of the operator `none`.
"""

MERGING = ("onnxruntime", "openvino", "tensorrt", "torch-compile", "torch-aoti")
"""Prefixes of the names of runtimes that perform common subexpression elimination."""

EDGE_RULES: tuple[EdgeRule, ...] = ("live", "once", "read", "all")


def deployed_edges(runtime: str) -> EdgeRule:
    """Return which edges of a deployed cell a runtime executes.

    Args:
        runtime: the runtime's name, as in a table.
    """
    return "once" if runtime.startswith(MERGING) else "live"


Text = Annotated[str, Field(min_length=1, max_length=500)]
CoefficientMs = Annotated[float, Field(ge=0, le=3_600_000, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Correlation = Annotated[float, Field(ge=-1, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(_Part):
    """A linear model of the latency of a space's networks, fitted to measured networks.

    The latency is `fixed_ms`, plus `costs_ms[choice][option]` for every operator that is executed,
    minus `shared_ms[work]` for every operator that reuses work of another one, multiplied by
    `1 + noise * z` with a standard normal `z`.
    """

    space: Text
    space_options: dict[str, Any] = Field(description="sizes of the deployed networks")
    edges: EdgeRule = Field(description="which edges of a cell the runtime executes")
    fixed_ms: CoefficientMs
    costs_ms: dict[str, dict[str, CoefficientMs]] = Field(description="by choice and option")
    shared_ms: dict[str, CoefficientMs] = Field(
        default_factory=dict,
        description="time of work that several operators share, under the rule `once`",
    )
    noise: Annotated[float, Field(ge=0, le=10)] = Field(
        description="standard deviation of a network's latency about the sum, relative to it"
    )
    factors: list[list[Number]] = Field(
        description="factors^T factors is the covariance of the coefficients, in ms^2; the columns "
        "are fixed_ms, then costs_ms and shared_ms in their order"
    )
    networks: Annotated[int, Field(ge=1)] = Field(description="number of measured networks")
    prior: Text = Field(description="the prior that was used for the fit")

    @model_validator(mode="after")
    def _factors_fit_the_costs(self) -> Calibration:
        columns = 1 + sum(map(len, self.costs_ms.values())) + len(self.shared_ms)
        for row in self.factors:
            if len(row) != columns:
                raise ValueError(f"a row of factors has {len(row)} columns, expected {columns}")
        return self


class Control(_Part):
    """Rank correlation with the latency of a quantity that needs no measurement."""

    spearman: Correlation
    kendall: Correlation


class Repeatability(_Part):
    """Relative differences between two measurements of the same networks in two processes."""

    networks: Annotated[int, Field(ge=1)]
    median_difference: Annotated[float, Field(ge=0)]
    p95_difference: Annotated[float, Field(ge=0)]


class Audit(_Part):
    """Predicted against measured latency of networks that the table was not fitted to."""

    networks: Annotated[int, Field(ge=2)]
    spearman: Correlation
    kendall: Correlation
    median_error: Annotated[float, Field(ge=0)] = Field(description="absolute relative error")
    p95_error: Annotated[float, Field(ge=0)]
    within_10_percent: Share
    within_90_interval: Share = Field(
        description="share of networks measured inside the predicted 90 % interval"
    )
    macs: Control
    params: Control
    repeatability: Repeatability | None = None
    members: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        description="of a pool: for each device the median ratio of its latencies to their mean "
        "over all devices",
    )

    @property
    def loses_to_macs(self) -> bool:
        """Whether the number of MACs or parameters ranks the networks better than the table."""
        return max(self.macs.spearman, self.params.spearman) > self.spearman


class Source(_Part):
    """Origin of latencies that were published by others."""

    title: Text
    url: Text
    licence: Text
    note: str = ""
