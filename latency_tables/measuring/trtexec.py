"""Reader of the file that `trtexec --exportTimes=FILE` writes: a JSON list with one object per run.

An object has the time at which the host enqueued the inference and the durations of its parts, in
milliseconds. The latency is the sum of copying the inputs to the device, computing, and copying the
outputs back; with `--noDataTransfers` it is the time of computing. The file names neither the model
nor the device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from hwnas.errors import InputError
from hwnas.latency_tables.files import parse_json, read_bytes

RUNTIME = "trtexec"
ROUNDING = 1e-3
"""Relative error that is allowed in comparisons, since numbers are written with six digits."""

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Inference(BaseModel):
    """One inference; versions of trtexec differ in their further fields."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(init=False)

    start_enqueue: Milliseconds = Field(alias="startEnqMs")
    end_enqueue: Milliseconds = Field(alias="endEnqMs")
    compute: Milliseconds = Field(alias="computeMs")
    latency: Annotated[Milliseconds, Field(gt=0)] = Field(alias="latencyMs")

    @model_validator(mode="after")
    def _adds_up(self) -> _Inference:
        if self.compute > self.latency * (1 + ROUNDING):
            raise ValueError("computeMs is greater than latencyMs")
        if self.start_enqueue > self.end_enqueue * (1 + ROUNDING):
            raise ValueError("endEnqMs is before startEnqMs")
        return self


_TIMES = TypeAdapter(Annotated[list[_Inference], Field(min_length=1)])


def is_times(path: Path) -> bool:
    """Whether a file contains a JSON list; other files of results contain a JSON object.

    Raises:
        InputError: the file cannot be read.
    """
    return read_bytes(path).lstrip()[:1] == b"["


def read_times(path: Path) -> tuple[float, ...]:
    """Return the latency of each inference, in ms, in the order of the file.

    Raises:
        InputError: the file is truncated, or does not have trtexec's format.
    """
    content = parse_json(read_bytes(path), path)
    try:
        found = _TIMES.validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"not times exported by trtexec: {first['msg'].removeprefix('Value error, ')}",
            where=": ".join([str(path), *map(str, first["loc"])]),
            mend=f"write it with `trtexec --onnx=MODEL.onnx --exportTimes={path.name}`",
        ) from None
    return tuple(inference.latency for inference in found)
