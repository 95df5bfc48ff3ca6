"""Errors that a user can act on: one line that says what is wrong, where, and how to mend it.

Every error carries the exit code that the command line ends with. The codes are part of the
command's contract: 1 a gate failed, 2 bad usage or input, 3 a runtime is missing or a
measurement is inconclusive, 4 a command ended with an error that nobody foresaw.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NO_MEMORY = "more memory is needed than this process can have"
MAX_LINE, MAX_ERROR = 400, 2000
"""Characters of a text from a file, and of an error that may hold several."""


def printable(text: str, longest: int = MAX_LINE) -> str:
    """One line that a terminal shows as it is: no control characters, cut where it is longer."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 3] + "..."


def first_line(error: Exception) -> str:
    """The first line of an exception's message, its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that proposes the known word closest to a mistyped one; empty if none is close."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {nearest[0]}?" if nearest else ""


class HwnasError(Exception):
    """Base of all errors raised on purpose; printed as one line, without a traceback."""

    exit_code = 2

    def __init__(
        self,
        cause: str,
        *,
        where: str = "",
        expected: object = None,
        actual: object = None,
        mend: str = "",
        details: str = "",
    ) -> None:
        """Compose the line.

        Args:
            cause: what is wrong, in a few words.
            where: the file, and the key in it, that is at fault.
            expected: what would have been right.
            actual: what was found.
            mend: what the user can do about it, often a command.
            details: the whole text of a library's error, which the line only has the cause of.
        """
        self.cause = cause
        self.details = details
        self.where = where
        self.mend = mend
        parts = [f"{where}: {cause}" if where else cause]
        if expected is not None:
            parts.append(f"expected {expected}")
        if actual is not None:
            parts.append(f"got {actual}")
        line = ", ".join(parts)
        if mend:
            line = f"{line}; {mend}"
        super().__init__(printable(line, MAX_ERROR))


class InputError(HwnasError):
    """A file, option or value that the user gave cannot be used (exit code 2)."""

    exit_code = 2


class RuntimeMissingError(HwnasError):
    """A runtime or device that was asked for is not on this machine (exit code 3)."""

    exit_code = 3


class DeviceError(HwnasError):
    """A device that is elsewhere cannot be reached, or cannot measure (exit code 3)."""

    exit_code = 3


class UnforeseenError(HwnasError):
    """A command ended with an error that hwnas did not expect (exit code 4).

    It is a fault of hwnas or of a library, not of what was given. A check has judged nothing.
    """

    exit_code = 4
