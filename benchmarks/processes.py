"""Whole commands in processes of their own, and what they take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

VERDICTS = (0, 1, 3)
"""Exit codes of pass, fail and inconclusive."""


@dataclass(frozen=True)
class Usage:
    """What a process and those that it waited for took."""

    wall_s: float
    processor_s: float
    peak_mb: float


def run_hwnas(*arguments: str) -> Usage:
    """Run `hwnas` with these arguments; any verdict is a result, all else ends this script."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "hwnas", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in VERDICTS:
        sys.exit(f"hwnas {' '.join(arguments)} failed")
    return Usage(
        time.monotonic() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024 / 1e6,
    )
