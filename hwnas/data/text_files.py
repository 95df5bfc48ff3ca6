"""Reading of text and CSV files, with limits and error messages for untrusted input."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from hwnas.data.formats import require_no_pipe
from hwnas.data.table_cells import listed
from hwnas.errors import InputError

MAX_BYTES = 10**8
"""Largest accepted file."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What separates the fields of files that are not read."""


def read_text(path: Path, expected: str = "a text file in UTF-8") -> str:
    """Return the content of a text file in UTF-8.

    Args:
        path: the file.
        expected: description of the file, for the error message if it is missing.

    Raises:
        InputError: the file is missing, too large or in a different encoding.
    """
    where = str(path)
    require_no_pipe(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                "the file is too large", where=where, expected=f"at most {MAX_BYTES} bytes"
            )
        # utf-8-sig drops the byte order mark that spreadsheet programs write.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=where, expected=expected) from None
    except UnicodeDecodeError as error:
        raise InputError(
            "not text in UTF-8", where=where, actual=error, mend="save the file as UTF-8"
        ) from None
    if "\0" in text:
        # Every second byte of English text in UTF-16 is one.
        raise InputError(
            "not text in UTF-8",
            where=where,
            actual=f"a byte of value 0 in line {text[: text.index(chr(0))].count(chr(10)) + 1}",
            mend="save the file as UTF-8, and remove such bytes",
        )
    return text


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV file, whose fields are separated by commas; blank lines are skipped.

    Returns:
        The header without spaces around its names, and the rows, each with as many fields.

    Raises:
        InputError: the file cannot be read or has another separator, a column has no name or that
            of another one, there are no rows, or a row differs in length from the header.
    """
    where = str(path)
    lines = csv.reader(
        io.StringIO(read_text(path, "a CSV file with a header"), newline=""), strict=True
    )
    try:
        header, *rows = _records(lines) or [[]]
    except csv.Error as error:
        raise InputError(
            "not a CSV file",
            where=f"{where}: line {lines.line_num}",
            actual=error,
            mend="close every quote, and double those within a field",
        ) from None
    header = [name.strip() for name in header]
    _require_names(header, where)
    if not rows:
        raise InputError("no samples", where=where, expected="at least one row below the header")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(
                "a row differs in its number of fields from the header",
                where=f"{where}: row {number}",
                expected=f"{len(header)} fields, as in the header",
                actual=len(row),
            )
    return header, rows


def require_labels(cells: Sequence[str], where: str) -> None:
    """Raise InputError if a cell that holds the class of a row is empty."""
    empty = [f"row {row + 1}" for row, text in enumerate(cells) if not text.strip()]
    if empty:
        raise InputError(
            "a label is missing" if len(empty) == 1 else f"{len(empty):,} labels are missing",
            where=where,
            expected="a class in every cell of the column",
            actual=f"no class in {listed(empty)}",
            mend="remove rows without a label",
        )


def _require_names(header: list[str], where: str) -> None:
    """Refuse a header with another separator than commas, and columns that cannot be told apart."""
    separator = next((s for s in SEPARATORS if len(header) == 1 and s in header[0]), None)
    if separator is not None:
        raise InputError(
            "the fields are not separated by commas",
            where=where,
            expected="a header such as x,y,label",
            actual=header[0],
            mend=f"save the file with commas in place of {SEPARATORS[separator]}, and numbers "
            "with decimal points",
        )
    if not all(header) and any(header):
        raise InputError(
            "a column has no name",
            where=where,
            expected="a first line with a name for each column",
            actual=",".join(header),
            mend="name or remove the column; pandas writes row numbers unless index=False, and a "
            "comma at the end of a line begins a further column",
        )
    if len(set(header)) < len(header):
        raise InputError(
            "two columns have the same name",
            where=where,
            expected="a first line with a different name for each column",
            actual=",".join(header),
        )


def _records(lines: Iterable[list[str]]) -> list[list[str]]:
    """Return the fields of each line that is not blank; the size of a field is not limited."""
    limit = csv.field_size_limit(MAX_BYTES)  # 128 KiB by default, for all readers of the process
    try:
        return [line for line in lines if line]
    finally:
        csv.field_size_limit(limit)
