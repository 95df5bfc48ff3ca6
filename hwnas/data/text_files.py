"""Reading of text and CSV files, with limits and error messages for untrusted input."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hwnas.errors import InputError

MAX_BYTES = 10**8
"""Largest accepted file."""


def read_text(path: Path, expected: str = "a text file in UTF-8") -> str:
    """Return the content of a text file in UTF-8.

    Args:
        path: the file.
        expected: description of the file, for the error message if it is missing.

    Raises:
        InputError: the file is missing, too large or in a different encoding.
    """
    where = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                "the file is too large", where=where, expected=f"at most {MAX_BYTES} bytes"
            )
        # utf-8-sig drops the byte order mark that spreadsheet programs write.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=where, expected=expected) from None
    except UnicodeDecodeError as error:
        raise InputError(
            "not text in UTF-8", where=where, actual=error, mend="save the file as UTF-8"
        ) from None


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV file; blank lines are skipped.

    Returns:
        The header, and the rows, each with as many fields as the header.

    Raises:
        InputError: the file cannot be read, two columns have the same name, there are no rows, or
            a row differs in length from the header.
    """
    where = str(path)
    try:
        text = read_text(path, "a CSV file with a header")
        header, *rows = _records(text) or [[]]
    except csv.Error as error:
        raise InputError("not a CSV file", where=where, actual=error) from None
    if len(set(header)) < len(header):
        raise InputError(
            "two columns have the same name",
            where=where,
            expected="a first line with a different name for each column",
            actual=",".join(header),
        )
    if not rows:
        raise InputError("no samples", where=where, expected="at least one row below the header")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(
                "a row differs in its number of fields from the header",
                where=f"{where}: row {number}",
                expected=f"{len(header)} fields",
                actual=len(row),
            )
    return header, rows


def _records(text: str) -> list[list[str]]:
    """Return the fields of each line that is not blank; the size of a field is not limited."""
    limit = csv.field_size_limit(MAX_BYTES)  # 128 KiB by default, for all readers of the process
    try:
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [line for line in lines if line]
    finally:
        csv.field_size_limit(limit)
