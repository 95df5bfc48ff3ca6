"""The steps in which a runtime's latency rises with the number of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from hwnas.deploy.export import to_onnx
from hwnas.latency_tables.measuring.operator_calls import Kind, Shape
from hwnas.latency_tables.measuring.profiler import PROFILE_PROTOCOL, profile_operators
from hwnas.latency_tables.runtimes import Runtime
from hwnas.latency_tables.table import OpSpec

STEPS = (32, 16, 8, 4, 2)
"""The steps that are looked for, the largest first."""
WIDTHS = tuple(range(34, 65, 2))
"""Output channels of the convolution that is measured."""
CHANNELS, SIDE = 32, 16
"""Its input channels, and the side of its maps."""
TOLERANCE = 0.05
"""How much faster than the next multiple of a step a width between two may be on average."""


def width_step(runtime: Runtime) -> int:
    """The largest step up to whose next multiple channels cost nothing on a runtime.

    A 3x3 convolution is measured at all even widths from 34 to 64. Runtimes that compute blocks of
    channels take as long for a part of a block as for a whole one.

    Args:
        runtime: measures with a batch of 1.

    Raises:
        RuntimeMissingError: when it is not on this machine.
    """
    specs = {w: OpSpec(f"conv-{w}", CHANNELS, w, SIDE, SIDE, 1) for w in WIDTHS}

    def build(spec: OpSpec) -> tuple[nn.Module, list[Shape], Kind]:
        torch.manual_seed(0)
        layer = nn.Conv2d(spec.c_in, spec.c_out, 3, padding=1).eval()
        return layer, [(spec.c_in, spec.height, spec.width)], "operator"

    table = profile_operators(
        specs.values(),
        runtime=runtime,
        build=build,
        to_onnx=to_onnx,
        batch=1,
        definitions={},
        protocol=PROFILE_PROTOCOL,
        group_size=len(WIDTHS),
    )
    return step_of({w: table.latency_ms(spec) for w, spec in specs.items()})


def step_of(latency_ms: Mapping[int, float], steps: Sequence[int] = STEPS) -> int:
    """The largest step for which widths between its multiples are not faster than the next one.

    Args:
        latency_ms: by the number of channels.
        steps: that are looked for, the largest first.
    """
    for step in steps:
        gains = [
            1 - ms / latency_ms[up]
            for width, ms in latency_ms.items()
            if (up := -(-width // step) * step) != width and up in latency_ms
        ]
        if gains and sum(gains) / len(gains) <= TOLERANCE:
            return step
    return 1
