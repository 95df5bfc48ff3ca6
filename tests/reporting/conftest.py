"""Runs whose reports the tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.run_folders import WrittenRun, written_run
from helpers.tiny import tiny_space


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    """A complete run of the NAS-Bench-201 space."""
    return written_run(tmp_path / "run")


@pytest.fixture(params=["darts", "nasbench201"])
def each_run(request: pytest.FixtureRequest, tmp_path: Path) -> WrittenRun:
    """A complete run of a space with two cell types, and of one with a single type."""
    return written_run(tmp_path / "first run", tiny_space(request.param))
