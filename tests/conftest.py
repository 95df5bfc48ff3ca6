"""Fixtures of all tests: a seeded generator, real data, one thread."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

import hwnas.cli.app
from hwnas.runs import interruption

# The same examples in every run; `--hypothesis-profile=default` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


TESTS = Path(__file__).parent
NOT_QUICK = (
    "budget/test_decode.py",
    "budget/test_gate.py",
    "budget/test_limit.py",
    "calibration/test_fit.py",
    "cli/test_app.py",
    "cli/test_check.py",
    "cli/test_table.py",
    "checking",
    "controls/test_decoded.py",
    "deploy",
    "docs",
    "estimators",
    "evaluators/test_shared.py",
    "kernels/triton",
    "latency_tables/runtimes",
    "pipeline",
    "runs/test_ranks.py",
    "strategies/test_sampled.py",
    "studies",
    "supernet",
    "test_contract.py",
)
"""Folders and files whose tests run whole searches or processes; `make quick` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests, and begin with the longest, so that processes end at one time."""
    for item in items:
        place = item.path.relative_to(TESTS).as_posix()
        if not any(place == part or place.startswith(f"{part}/") for part in NOT_QUICK):
            item.add_marker("quick")
    items.sort(key=lambda item: "long" not in item.keywords)


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


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(interruption, "install", lambda: None)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            hwnas.cli.app.main(list(arguments))
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
