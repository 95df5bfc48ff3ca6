"""What a table knows of whole networks: coefficients fitted to measured ones, and their audit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EdgeRule = Literal["live", "once", "read", "all"]
"""Which edges of a cell a runtime runs: `live`, those on a path from the cell's input to its
output; `once`, the same, but equal operators without weights on one input as one; `read`, those
whose result leads to the output, unless the whole cell is a constant; `all`, every edge, empty
ones included."""

MERGING = ("onnxruntime", "openvino", "tensorrt", "torch-compile", "torch-aoti")
"""How the names of runtimes begin whose graph optimisers run equal operators on one input once."""

EDGE_RULES: tuple[EdgeRule, ...] = ("live", "once", "read", "all")


def deployed_edges(runtime: str) -> EdgeRule:
    """What a runtime runs of a deployed network: compilers of whole graphs merge equals."""
    return "once" if runtime.startswith(MERGING) else "live"


Text = Annotated[str, Field(min_length=1, max_length=500)]
CoefficientMs = Annotated[float, Field(ge=0, le=3_600_000, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Correlation = Annotated[float, Field(ge=-1, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calibration(_Part):
    """Latency of a space's networks as a sum of coefficients, fitted to end-to-end measurements.

    `latency = fixed_ms + sum of costs_ms[choice][option] over what runs - sum of shared_ms[work]
    each time that an operator finds the work done`, times `1 + noise * standard normal`.
    """

    space: Text
    space_options: dict[str, Any] = Field(description="sizes of the deployed networks")
    edges: EdgeRule = Field(description="which edges of a cell the runtime runs")
    fixed_ms: CoefficientMs
    costs_ms: dict[str, dict[str, CoefficientMs]] = Field(description="by choice and option")
    shared_ms: dict[str, CoefficientMs] = Field(
        default_factory=dict,
        description="work that operators share under the rule `once`",
    )
    noise: Annotated[float, Field(ge=0, le=10)] = Field(
        description="relative standard deviation of one network about the sum"
    )
    factors: list[list[Number]] = Field(
        description="covariance of the coefficients = factors^T factors, in ms; the columns are "
        "fixed_ms, then costs_ms and shared_ms in their order"
    )
    networks: Annotated[int, Field(ge=1)] = Field(description="how many were measured")
    prior: Text = Field(description="what was known before")

    @model_validator(mode="after")
    def _factors_fit_the_costs(self) -> Calibration:
        columns = 1 + sum(map(len, self.costs_ms.values())) + len(self.shared_ms)
        for row in self.factors:
            if len(row) != columns:
                raise ValueError(f"a row of factors has {len(row)} columns, expected {columns}")
        return self


class Control(_Part):
    """How well a figure that needs no measurement orders the networks."""

    spearman: Correlation
    kendall: Correlation


class Repeatability(_Part):
    """The same networks measured again in another process: relative differences."""

    networks: Annotated[int, Field(ge=1)]
    median_difference: Annotated[float, Field(ge=0)]
    p95_difference: Annotated[float, Field(ge=0)]


class Audit(_Part):
    """Predicted against measured latency of networks that the table was not fitted to."""

    networks: Annotated[int, Field(ge=2)]
    spearman: Correlation
    kendall: Correlation
    median_error: Annotated[float, Field(ge=0)] = Field(description="absolute, relative")
    p95_error: Annotated[float, Field(ge=0)]
    within_10_percent: Share
    within_90_interval: Share = Field(description="measured inside the predicted 90 % interval")
    macs: Control
    params: Control
    repeatability: Repeatability | None = None

    @property
    def loses_to_macs(self) -> bool:
        """Whether counting operations orders the networks better than the table."""
        return max(self.macs.spearman, self.params.spearman) > self.spearman


class Source(_Part):
    """Where figures come from that were not measured here."""

    title: Text
    url: Text
    licence: Text
    note: str = ""
