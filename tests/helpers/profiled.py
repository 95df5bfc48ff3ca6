"""Shared by the tests of the profiler and of runtimes: a quick protocol and small operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from hwnas.latency_tables.measuring.operator_calls import Kind, Shape
from hwnas.latency_tables.measuring.profiler import profile_operators
from hwnas.latency_tables.runtimes import Runtime, ToOnnx
from hwnas.latency_tables.table import LatencyTable, OpSpec
from hwnas.latency_tables.timing import Protocol

QUICK = Protocol(
    warmup_s=0.001,
    block_ms=0.2,
    blocks_per_round=1,
    min_rounds=5,
    max_rounds=12,
    time_limit_s=30.0,
    max_repeats=0,
)


class Add(nn.Module):
    """An addition with a layer that is never called, for tests that count the costs of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = nn.Bilinear(1, 1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def build_operator(spec: OpSpec) -> tuple[nn.Module, list[Shape], Kind]:
    """Build an operator of these tests by its name."""
    shape = (spec.c_in, spec.height, spec.width)
    tokens = (spec.height * spec.width, spec.c_in)
    match spec.name:
        case "stem":
            return nn.Conv2d(spec.c_in, spec.c_out, 3, padding=1), [shape], "source"
        case "skip_connect":
            return nn.Identity(), [shape], "operator"
        case "conv_3x3":
            conv = nn.Conv2d(spec.c_in, spec.c_out, 3, spec.stride, 1)
            return nn.Sequential(nn.ReLU(), conv), [shape], "operator"
        case "max_pool_3x3":
            return nn.MaxPool2d(3, spec.stride, 1), [shape], "operator"
        case "add":
            return Add(), [shape, shape], "operator"
        case "token_norm":
            return nn.LayerNorm(spec.c_in), [tokens], "operator"
        case "token_linear":
            return nn.Linear(spec.c_in, spec.c_out), [tokens], "operator"
        case "head":
            layers = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(spec.c_in, spec.c_out)
            return nn.Sequential(*layers), [shape], "operator"
        case _:
            raise AssertionError(spec)


def profiled(
    specs: Iterable[OpSpec], runtime: Runtime, to_onnx: ToOnnx | None, **options: Any
) -> LatencyTable:
    """Measure operators of `build_operator` by a quick protocol."""
    options = {"protocol": QUICK, "batch": 1, "definitions": {"conv": "r1"}} | options
    return profile_operators(
        specs, runtime=runtime, build=build_operator, to_onnx=to_onnx, **options
    )
