"""Fixtures of the kernels' tests."""

from __future__ import annotations

import pytest

from hwnas.kernels.cpu.binding import UnavailableError, available_instructions


@pytest.fixture
def needs_kernels() -> None:
    """Skip the test where the C++ kernels are not available."""
    try:
        available_instructions()
    except UnavailableError as error:
        pytest.skip(str(error))
