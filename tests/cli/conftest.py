"""What the tests of commands share."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def check(cli) -> Callable[..., tuple[int, str, str]]:
    """Run `hwnas check` in this process: (exit code, stdout, stderr)."""
    return lambda *arguments: cli("check", *map(str, arguments))
