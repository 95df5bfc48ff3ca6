"""Text and CSV files of datasets."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hwnas.errors import InputError

MOST_CHARACTERS = 10**8
"""Of a file."""


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8.

    Raises:
        InputError: a missing, unreadable or gigantic file, or one in another encoding.
    """
    where = str(path)
    try:
        if path.stat().st_size > MOST_CHARACTERS:
            raise InputError("gigantic", where=where, expected=f"{MOST_CHARACTERS} bytes at most")
        # Spreadsheets begin their files with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=where) from None
    except UnicodeDecodeError as error:
        raise InputError("not text in UTF-8", where=where, actual=error) from None


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header of a CSV file and its rows, each as long as the header.

    Raises:
        InputError: a file that cannot be read, with two columns of one name, without rows, or
            with a row of another length.
    """
    where = str(path)
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        header, *rows = [line for line in lines if line] or [[]]
    except csv.Error as error:
        raise InputError("not a CSV file", where=where, actual=error) from None
    if len(set(header)) < len(header):
        raise InputError("two columns of one name", where=where)
    if not rows:
        raise InputError("no samples", where=where, expected="at least one row below the header")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(
                "another number of columns than the header has",
                where=f"{where}: row {number}",
                expected=len(header),
                actual=len(row),
            )
    return header, rows
