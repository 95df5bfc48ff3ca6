"""The child processes of a process, as Linux lists them."""

from __future__ import annotations

import os
import time
from pathlib import Path


def children_of(pid: int) -> set[int]:
    """Process numbers of the children that any thread of a process started."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for path in found for child in path.read_text().split()}


def wait_for_child(pid: int, known: set[int] | None = None, seconds: float = 30) -> int:
    """The number of a child that is not among the known ones, once there is one."""
    deadline = time.monotonic() + seconds
    while not (new := children_of(pid) - (known or set())):
        assert time.monotonic() < deadline, "no process was started"
        time.sleep(0.02)
    return new.pop()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int, seconds: float = 30) -> None:
    """Return once a process has ended."""
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} of {os.getpid()} is still running"
        time.sleep(0.05)
