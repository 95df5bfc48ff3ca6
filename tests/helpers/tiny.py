"""Small spaces of every kind, and latency tables with made-up figures for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers.own_networks import own_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.latency_tables.table import LatencyTable, Measurement, OpSpec
from hwnas.latency_tables.timing import Protocol
from hwnas.spaces import SPACES, SearchSpace, build_space
from hwnas.spaces.traced.described import TRACED

TINY_OPTIONS = {
    "darts": {"cells": 3, "channels": 4, "stem_multiplier": 1},
    "decoder": {
        "channels": 2,
        "doublings": 1,
        "layers": 1,
        "image_size": [4, 6],
        "head": "image",
        "widths": [1, 2],
    },
    "elastic": {
        "layout": "small",
        "width_multiplier": 0.25,
        "stage_layers": 2,
        "head_channels": 8,
        "resolutions": [6, 9],
        "kernels": [3, 5],
        "expansions": [1, 3],
        "least_layers": 1,
    },
    "macro": {
        "stem_channels": 4,
        "stages": [
            {
                "layers": [1, 2],
                "kernel": [1, 3],
                "width": [3, 4],
                "stride": [1, 2],
                "reduction": 2,
                "pooling": ["max", "avg"],
            },
            {"operator": "dense", "channels": 4, "activation": ["relu", "relu6"]},
        ],
    },
    "mbconv": {"layout": "small", "width_multiplier": 0.25, "stage_layers": 1, "head_channels": 8},
    "nasbench101": {"cells": 1, "channels": 5, "vertices": 4},
    "nasbench201": {"cells": 1, "channels": 4},
    "nasnet": {
        "cells": 1,
        "channels": 4,
        "blocks": 2,
        "stem_multiplier": 1,
        "operators": ["skip_connect", "max_pool_3x3", "conv_1x3_3x1"],
    },
    "rnn": {"nodes": 2, "channels": 3},
    "sequence": {"layers": 3, "channels": 4},
    "vit": {
        "patch": 4,
        "embeddings": [8, 12],
        "heads": [1, 2],
        "head_channels": 4,
        "mlp_ratios": [1.0, 2.0],
        "blocks": 2,
        "fixed_blocks": 1,
    },
}
CHECKED_BY_COMMANDS = {"mbconv", "nasbench201", "sequence"}
"""Spaces whose networks the tests of the README's commands export and check."""
LONG_TO_EXPORT = {"nasnet"}
"""Spaces whose networks take the exporter seconds, and have operators as others have."""
TINY_SIZES = {"input_channels": 1, "height": 9, "width": 7, "classes": 3}


def tiny_space(name: str, **options: Any) -> SearchSpace:
    """A space whose supernet runs in milliseconds, for images with odd sides."""
    if name == TRACED and not options:
        return own_space()
    return build_space(name, TINY_OPTIONS.get(name, {}) | TINY_SIZES | options)


def spaces_to_export() -> list[Any]:
    """The names of all spaces as test parameters, marked slow if others say the same of them."""
    slow = CHECKED_BY_COMMANDS | LONG_TO_EXPORT
    return [
        pytest.param(name, marks=pytest.mark.slow if name in slow else ())
        for name in sorted(SPACES)
    ]


def cost_in_table(spec: OpSpec) -> float:
    """A made-up latency in ms that differs between operators and grows with their size."""
    letters = 0 if spec.name in ("relu", "shift_by_pixel") else 1 + sum(map(ord, spec.name)) % 17
    return 1e-4 * (0.5 + letters) * spec.c_out * spec.height * spec.width / spec.stride


def table_of(
    space: SearchSpace,
    runtime: str = "onnxruntime-cpu",
    cost: Callable[[OpSpec], float] = cost_in_table,
) -> LatencyTable:
    """A table of this device with the cost of every operator of a space, in ms."""
    measurements = {}
    for spec in space.all_operators():
        value = cost(spec)
        measurements[spec] = Measurement(
            median_ms=1.1 * value, p10_ms=value, p90_ms=1.2 * value, rounds=20, status="ok"
        )
    return LatencyTable.from_measurements(
        measurements,
        device=create_runtime(runtime, 1).profile(dtype="float32", batch=1),
        protocol=Protocol(),
        statistic="p10",
        definitions=space.definitions(),
    )


def decoder_of(space: SearchSpace) -> Decoder:
    """A decoder that knows the latencies of `table_of` but has no budget."""
    return Decoder([Limit(CostModel(space, table_of(space)))])
