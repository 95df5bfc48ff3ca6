"""One error for all files of a dataset that cannot be used, instead of one error per attempt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hwnas.errors import InputError, printable

LISTED = 10
"""Number of files that are named; the others are counted."""
MAX_NAME = 80
"""Largest number of characters of a file's name that are shown."""


class DamagedFiles:
    """Collects the errors of files while a reader goes on with the remaining files.

    Example:
        damaged = DamagedFiles(files, "images")
        for file in files:
            with damaged.collecting(file):
                ...  # an InputError in here is kept, and the loop goes on
        damaged.refuse_if_any()
    """

    def __init__(self, files: Sequence[Path], kind: str) -> None:
        """Prepare an empty collection.

        Args:
            files: all files that will be read.
            kind: what they are, such as "images", for the error message.
        """
        self._files = files
        self._kind = kind
        self._errors: dict[Path, InputError] = {}

    def __contains__(self, file: Path) -> bool:
        """Return whether the file has had an error."""
        return file in self._errors

    @contextmanager
    def collecting(self, file: Path) -> Iterator[None]:
        """Keep an InputError that is raised in the block as the error of the file."""
        try:
            yield
        except InputError as error:
            self._errors.setdefault(file, error)

    def refuse_if_any(self) -> None:
        """Raise the errors that were collected as one.

        Raises:
            InputError: there were errors. A single one is raised as it is; several are counted,
                and the first `LISTED` files are named with what is wrong with each.
        """
        errors = self._errors
        if not errors:
            return
        if len(errors) == 1:
            raise next(iter(errors.values()))
        folder = Path(os.path.commonpath([file.parent for file in self._files]))
        causes = Counter(error.cause for error in errors.values())
        # The rarest cause comes first, so that it is not lost among many files with another one.
        ordered = sorted(errors, key=lambda file: causes[errors[file].cause])
        names = [_shortened(file, folder) for file in ordered[:LISTED]]
        if len(causes) == 1:
            found = f"{next(iter(causes))}: {', '.join(names)}"
        else:
            given = [errors[file].cause for file in ordered[:LISTED]]
            pairs = zip(names, given, strict=True)
            found = ", ".join(f"{name} ({printable(cause, 100)})" for name, cause in pairs)
        more = f", and {len(errors) - LISTED} more" if len(errors) > LISTED else ""
        raise InputError(
            f"{len(errors):,} of {len(set(self._files)):,} {self._kind} cannot be used: "
            f"{found}{more}",
            where=str(folder),
            mend=f"the first of them: {errors[ordered[0]]}",
        )


def _shortened(file: Path, folder: Path) -> str:
    """Return the path of a file relative to a folder, cut at its start if it is long."""
    name = printable(str(file.relative_to(folder)), 1000)
    return name if len(name) <= MAX_NAME else "..." + name[3 - MAX_NAME :]
