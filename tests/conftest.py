"""Fixtures that several files use: small spaces, a table with known figures, real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.latency_tables.runtimes import create_runtime
from hwnas.latency_tables.table import LatencyTable, Measurement, OpSpec
from hwnas.latency_tables.timing import Protocol
from hwnas.ops import registry_hash
from hwnas.spaces import SearchSpace, build_space

TINY_OPTIONS = {
    "darts": {"cells": 3, "channels": 4, "stem_multiplier": 1},
    "nasbench201": {"cells": 1, "channels": 4},
}
TINY_SIZES = {"input_channels": 1, "height": 9, "width": 7, "classes": 3}


def tiny_space(name: str, **options: int) -> SearchSpace:
    """A space whose supernet runs in milliseconds; odd image sides."""
    return build_space(name, TINY_OPTIONS[name] | TINY_SIZES | options)


def cost_in_table(spec: OpSpec) -> float:
    """Any figure that differs between operators and grows with their size."""
    letters = sum(map(ord, spec.name))
    return 1e-4 * (1 + letters % 17) * spec.c_out * spec.height * spec.width / spec.stride


def table_of(space: SearchSpace, runtime: str = "onnxruntime-cpu") -> LatencyTable:
    """A table of this device that holds `cost_in_table` for every operator of a space."""
    measurements = {}
    for spec in space.all_operators():
        value = cost_in_table(spec)
        measurements[spec] = Measurement(
            median_ms=1.1 * value, p10_ms=value, p90_ms=1.2 * value, rounds=20, status="ok"
        )
    return LatencyTable.from_measurements(
        measurements,
        device=create_runtime(runtime, 1).profile(dtype="float32", batch=1),
        protocol=Protocol(),
        statistic="p10",
        registry=registry_hash(),
    )


@pytest.fixture
def make_table() -> Callable[[SearchSpace], LatencyTable]:
    """`table_of`, as a fixture."""
    return table_of


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that need it are skipped without."""
    folder = os.environ.get("HWNAS_DATA")
    if not folder:
        pytest.skip("HWNAS_DATA is not set")
    return Path(folder)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
