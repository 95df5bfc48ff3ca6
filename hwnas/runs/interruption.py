"""SIGINT and SIGTERM: the first asks the running stage to save and stop, the second stops now."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

from hwnas.errors import HwnasError

_requested: int | None = None


class Interrupted(HwnasError):  # noqa: N818  # no error: the user asked for it
    """The run was asked to stop and has saved its state; exit code 128 + signal."""

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        saved = "at once; the last checkpoint is kept" if at_once else "everything is saved"
        super().__init__(
            f"stopped by {signal.Signals(number).name}, {saved}",
            mend="continue with `--resume`",
        )
        self.exit_code = 128 + number


def install() -> None:
    """Handle both signals; for the command line, which owns the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _request)


def _request(number: int, frame: FrameType | None) -> None:
    global _requested
    if _requested is not None:
        raise Interrupted(number, at_once=True)
    _requested = number


def requested() -> bool:
    """Whether the running stage should save and stop."""
    return _requested is not None


def stop_if_requested() -> None:
    """Raise Interrupted when a signal came; to be called where the state on disk is complete."""
    if requested():
        stop()


def stop() -> NoReturn:
    """Raise Interrupted by the signal that came, here or to another process of the same work."""
    raise Interrupted(_requested or signal.SIGTERM)
