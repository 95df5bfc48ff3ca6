"""How a command ends with an error that nobody foresaw: one line, with the traceback in a file."""

from __future__ import annotations

import os
import tempfile
import traceback

from hwnas.errors import NO_MEMORY, HwnasError, InputError, UnforeseenError, first_line

OUT_OF_MEMORY = (
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "failed to map segment",
    "could not create a primitive",
    "could not execute a primitive",
)
"""What the errors say with which libraries report that memory ran out. The primitives
are oneDNN's, which computes PyTorch's convolutions and gives no reason; PyTorch does not ask it for
what it lacks."""


def ending(error: Exception, cause: str, where: str = "") -> HwnasError:
    """The error that stands for any other exception; called where that is being handled.

    Args:
        error: the exception.
        cause: what ended, such as `the check ended with an unforeseen error`.
        where: the file at fault.

    Returns:
        An InputError where memory ran out, otherwise an UnforeseenError.
    """
    if isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in OUT_OF_MEMORY
    ):
        return InputError(
            NO_MEMORY,
            where=where,
            mend="make batch sizes or inputs smaller, or allow more",
        )
    path = _write_traceback()
    return UnforeseenError(
        cause,
        where=where,
        actual=f"{type(error).__name__}: {first_line(error)}",
        mend=f"please report it with {path}" if path else "its traceback could not be written",
        details=path,
    )


def _write_traceback() -> str:
    """Write the current exception to a file among the temporary ones; its path, empty if none."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="hwnas-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exc(file=file)
    except OSError:
        return ""
    return path
