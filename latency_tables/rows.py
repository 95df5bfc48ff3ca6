"""The rows of a latency table: an operator at given shapes, and its measured latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwnas.latency_tables.statistics import Statistic, Status

HOUR_MS = 3_600_000.0

Text = Annotated[str, Field(min_length=1, max_length=500)]
Size = Annotated[int, Field(ge=1, le=2**24)]
# A longer time is a mistake in the unit, or the file is forged.
TimeMs = Annotated[float, Field(ge=0, le=HOUR_MS, allow_inf_nan=False)]
PositiveMs = Annotated[float, Field(gt=0, le=HOUR_MS, allow_inf_nan=False)]
TableStatistic = Statistic | Literal["mean"]


@dataclass(frozen=True, order=True)
class OpSpec:
    """An operator and the shapes it runs at: the key of a table's row.

    Attributes:
        name: the operator's name in the literature, such as `sep_conv_3x3`.
        c_in: channels of the input.
        c_out: channels of the output.
        height: of the input, in pixels.
        width: of the input, in pixels.
        stride: of the operator.
    """

    name: str
    c_in: int
    c_out: int
    height: int
    width: int
    stride: int = 1

    def __str__(self) -> str:
        shape = f"{self.c_in}>{self.c_out} {self.height}x{self.width}"
        return f"{self.name} {shape} s{self.stride}"


class Measurement(BaseModel):
    """One operator's latency per inference, in ms: quantiles over the rounds of a measurement.

    Published tables often state only a mean; `mean_ms` then replaces the three quantiles.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    median_ms: TimeMs | None = None
    p10_ms: TimeMs | None = None
    p90_ms: TimeMs | None = None
    mean_ms: TimeMs | None = None
    rounds: Size
    status: Status

    @model_validator(mode="after")
    def _quantiles_in_order(self) -> Measurement:
        quantiles = [q for q in (self.p10_ms, self.median_ms, self.p90_ms) if q is not None]
        if len(quantiles) != (0 if self.mean_ms is not None else 3):
            raise ValueError("expected either median_ms, p10_ms and p90_ms, or mean_ms")
        if quantiles != sorted(quantiles):
            raise ValueError("p10_ms <= median_ms <= p90_ms does not hold")
        return self

    def value_ms(self, statistic: TableStatistic) -> float:
        """Return the latency by the given statistic, in ms.

        Raises:
            KeyError: this measurement does not have the statistic.
        """
        figures = {"p10": self.p10_ms, "median": self.median_ms, "mean": self.mean_ms}
        value = figures[statistic]
        if value is None:
            raise KeyError(statistic)
        return value


class ReferenceSessions(BaseModel):
    """The time of the speed reference in each session of the measurement, in ms.

    A session is a group of operators that were timed together. Their spread says how much a latency
    of this device differs from one session to the next.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    sessions_ms: Annotated[tuple[PositiveMs, ...], Field(min_length=1)]


class _OperatorKey(BaseModel):
    """The columns of a row that identify the operator, see `OpSpec`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    c_in: Size
    c_out: Size
    height: Size
    width: Size
    stride: Size


class OperatorRow(Measurement, _OperatorKey):
    """A row as it is stored: the operator's key, followed by its measurement."""

    @property
    def spec(self) -> OpSpec:
        """The row's key."""
        return OpSpec(self.name, self.c_in, self.c_out, self.height, self.width, self.stride)

    @property
    def measurement(self) -> Measurement:
        """The row's measurement, without the key."""
        return Measurement(**{key: getattr(self, key) for key in Measurement.model_fields})
