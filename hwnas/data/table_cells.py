"""Cells of tables: which texts are numbers, and which stand for a missing one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hwnas.errors import InputError

# No two parts can match the same digits, so that the time to refuse a text grows with its length.
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
LIKE_NUMBER = re.compile(r"[+-]?[0-9][0-9.,'_ ]*%?")
"""Texts that may be meant as numbers, such as 0,5 or 12 %; they are read as texts."""
MAX_NUMBER = float(np.finfo(np.float32).max)
MISSING = frozenset("- . ? #n/a #na -nan <na> missing n.a. n/a na nan nil none null".split()) | {""}
"""Texts that stand for a missing number, in lower case."""
LISTED = 10
"""Number of cells or columns that a message names."""


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def is_numeric(texts: Sequence[str], where: str) -> bool:
    """Return whether more than half of the cells that are not missing are numbers.

    Raises:
        InputError: all cells are missing.
    """
    present = [text for text in texts if not is_missing(text)]
    if not present:
        raise InputError(
            "a column without values",
            where=where,
            expected="at least one training cell that is not empty",
            mend="remove the column",
        )
    return 2 * sum(bool(NUMBER.fullmatch(text.strip())) for text in present) > len(present)


def is_missing(text: str) -> bool:
    """Return whether a cell stands for a missing number."""
    return text.strip().lower() in MISSING


def number_of(text: str) -> float:
    """Return the number that a text states; NaN unless it is one and finite in float32."""
    # float() alone would also accept 1_1, infinity and digits of other scripts.
    text = text.strip()
    value = float(text) if NUMBER.fullmatch(text) else np.nan
    return value if abs(value) <= MAX_NUMBER else np.nan
