"""Running a function in a separate process, and limits of memory and processor time."""

from __future__ import annotations

import math
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hwnas.errors import InputError
from hwnas.latency_tables.measuring.child import ChildEndedError, call_in_child

STATUS = Path("/proc/self/status")
FREE = Path("/proc/meminfo")
SESSION_MB = 8000.0
"""Memory that a session may allocate by default, in MB."""
FREE_SHARE = 0.8
"""Share of the free memory that all sessions together may allocate by default."""

_Result = TypeVar("_Result")


def run_in_process(
    function: Callable[..., _Result], *arguments: object, terminated: InputError
) -> _Result:
    """Run a function in a new process, which shares nothing with this one and ends with it.

    Args:
        function: can be imported by other processes.
        arguments: positional arguments; they must be picklable.
        terminated: the error to raise if the process does not survive.

    Raises:
        InputError: `terminated`, because the process was killed or ran out of memory.
    """
    try:
        return call_in_child(function, *arguments)
    except (ChildEndedError, MemoryError):
        raise terminated from None


def allow_seconds(limit_s: int | None) -> None:
    """Limit this process's further processor time; the system kills the process beyond it.

    Args:
        limit_s: seconds from now, or None for no limit.
    """
    if limit_s is not None:
        limit = math.ceil(time.process_time()) + limit_s
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def session_limit_mb(stated_mb: float | None, sessions: int = 1) -> float:
    """Return the memory that several sessions may allocate together, in MB.

    Args:
        stated_mb: limit of one session; by default 8000 MB, but at most 80 % of the free memory
            for all sessions together.
        sessions: how many sessions are open at the same time.
    """
    if stated_mb is not None:
        return stated_mb * sessions
    limit_mb = SESSION_MB * sessions
    if not FREE.exists():
        return limit_mb
    return min(limit_mb, FREE_SHARE * _kb_as_mb(FREE, "MemAvailable"))


@contextmanager
def allocating_at_most(limit_mb: float | None, where: str) -> Iterator[None]:
    """Limit the memory that this process allocates inside the context; only on Linux.

    Args:
        limit_mb: memory beyond that at the start, in MB (10^6 bytes), or None for no limit.
        where: the model, for the error message.

    Raises:
        InputError: the limit was exceeded (in place of MemoryError).
    """
    if limit_mb is None or not STATUS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int((status_mb("VmData") + limit_mb) * 1e6)
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    except MemoryError:
        raise InputError(
            "running the model takes too much memory",
            where=where,
            expected=f"at most {limit_mb:.0f} MB",
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def status_mb(key: str) -> float:
    """Return an entry of `/proc/self/status`, such as `VmRSS`, in MB; only on Linux."""
    return _kb_as_mb(STATUS, key)


def _kb_as_mb(path: Path, key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
