"""What a run is doing right now, in a small file that other processes can read.

The history says what happened; this says which stage is running, how far it is, and in which
process. It is replaced at most once a second and may be lost in a crash of the machine, which costs
nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas.runs.progress import Advance, Stage

EVERY_S = 1.0
"""Seconds between two writes of the file, at least."""
BYTES_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass
class Heartbeat:
    """The state of a stage.

    Attributes:
        pid: the process.
        stage: title of the stage.
        done, total: steps of the stage.
        text: about the last step.
        started: when the stage began here, in seconds since 1970.
        first: steps that were done then, in a resumed stage more than 0.
        updated: when this was written, in seconds since 1970.
        memory_mb: the largest memory of the process so far.
    """

    pid: int
    stage: str
    done: int
    total: int
    text: str
    started: float
    first: int
    updated: float
    memory_mb: float

    @property
    def is_alive(self) -> bool:
        """Whether the process still exists."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
            return True
        return True

    @property
    def seconds_left(self) -> float | None:
        """How long the rest of the stage takes at its pace; None before its second step."""
        done, passed = self.done - self.first, self.updated - self.started
        if done <= 0 or passed <= 0:
            return None
        return passed / done * max(self.total - self.done, 0)

    @classmethod
    def read(cls, path: Path) -> Heartbeat | None:
        """Read the file; None if there is none or it is not of this form."""
        try:
            stated: Any = json.loads(path.read_text("utf-8"))
            found = cls(**stated)
            numbers = (found.done, found.total, found.first, found.pid)
            times = (found.started, found.updated, found.memory_mb)
            is_sound = (
                all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
                and all(isinstance(t, int | float) for t in times)
                and isinstance(found.stage, str)
                and isinstance(found.text, str)
                and found.pid > 0
            )
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return found if is_sound else None

    def write(self, path: Path) -> None:
        """Replace the file; a disk that is full, or a folder that is gone, is no reason to stop."""
        temporary = path.with_name(f"{path.name}.tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(asdict(self)), "utf-8")
            temporary.replace(path)


def recorded(stage: Stage, path: Path) -> Stage:
    """A stage that also writes how far it is.

    Args:
        stage: shows the progress.
        path: the file.
    """

    @contextmanager
    def opened(title: str) -> Iterator[Advance]:
        now = time.time()
        beat = Heartbeat(os.getpid(), title, 0, 0, "", now, -1, now, _memory_mb())
        beat.write(path)
        with stage(title) as show:

            def advance(done: int, total: int, text: str) -> None:
                show(done, total, text)
                now = time.time()
                if beat.first < 0:
                    beat.first, beat.started = done, now
                beat.done, beat.total, beat.text = done, total, text
                if now - beat.updated >= EVERY_S or done == total:
                    beat.updated, beat.memory_mb = now, _memory_mb()
                    beat.write(path)

            yield advance

    return opened


def _memory_mb() -> float:
    """The largest resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_OF_MAXRSS / 1e6
