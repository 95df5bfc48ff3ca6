"""Times of single inferences as `trtexec --exportTimes=FILE` writes them: a JSON list of objects.

An object has when the host enqueued the inference and how long its parts took, in milliseconds.
The latency is the copy of the inputs to the device, the computation and the copy back; with
`--noDataTransfers` it is the computation. Nothing in the file names the model or the device.
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
"""How far sums may be off: numbers are written with six digits."""

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Inference(BaseModel):
    """One inference; versions of trtexec differ in what else they write."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(init=False)

    start_enqueue: Milliseconds = Field(alias="startEnqMs")
    end_enqueue: Milliseconds = Field(alias="endEnqMs")
    compute: Milliseconds = Field(alias="computeMs")
    latency: Annotated[Milliseconds, Field(gt=0)] = Field(alias="latencyMs")

    @model_validator(mode="after")
    def _adds_up(self) -> _Inference:
        if self.compute > self.latency * (1 + ROUNDING):
            raise ValueError("computeMs is more than latencyMs")
        if self.start_enqueue > self.end_enqueue * (1 + ROUNDING):
            raise ValueError("endEnqMs is before startEnqMs")
        return self


_TIMES = TypeAdapter(Annotated[list[_Inference], Field(min_length=1)])


def is_times(path: Path) -> bool:
    """Whether a file begins as a list does; all other results are an object.

    Raises:
        InputError: when it cannot be read.
    """
    return read_bytes(path).lstrip()[:1] == b"["


def read_times(path: Path) -> tuple[float, ...]:
    """The latency of each inference in milliseconds, in their order.

    Raises:
        InputError: when the file is cut short, or is not what trtexec writes.
    """
    content = parse_json(read_bytes(path), path)
    try:
        found = _TIMES.validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"not the times that trtexec exports: {first['msg'].removeprefix('Value error, ')}",
            where=": ".join([str(path), *map(str, first["loc"])]),
            mend=f"write it with `trtexec --onnx=MODEL.onnx --exportTimes={path.name}`",
        ) from None
    return tuple(inference.latency for inference in found)
