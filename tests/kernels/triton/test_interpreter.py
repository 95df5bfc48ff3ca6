"""Runs the Triton tests in processes of their own, since the interpreter is chosen at import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
TESTS = Path(__file__).parents[2]
CASES = [
    str(TESTS / "helpers" / f"triton_{name}.py")
    for name in ("cases", "cell_cases", "program_cases", "step_cases")
]


def run_cases(marks: str, *, interpret: bool) -> None:
    """Run the tests that have the marks, and fail with their output."""
    environment = dict(os.environ, PYTHONPATH=str(TESTS))
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    command = (sys.executable, "-m", "pytest", "-q", "-x", *CASES, "-m", marks)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.long
def test_kernels_in_the_interpreter() -> None:
    run_cases("not slow", interpret=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_more_sizes_and_cells_in_the_interpreter() -> None:
    run_cases("slow", interpret=True)


@pytest.mark.gpu
@pytest.mark.timeout(1200)
def test_kernels_on_a_gpu() -> None:
    run_cases("slow or not slow", interpret=False)
