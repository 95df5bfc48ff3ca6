"""The last column of a table, which is to be predicted: values or classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from hwnas.data.table_cells import is_missing, listed, number_of
from hwnas.data.targets import targets_of
from hwnas.data.text_files import require_labels
from hwnas.errors import InputError, printable

Target = Literal["number", "class"]
"""What the last column of a table is: a value to be predicted, or a class."""
LARGEST_WHOLE = 2**53
"""Whole numbers above this are not all different as floats, so that they are read as texts."""


def is_classes(texts: Sequence[str]) -> bool:
    """Whether most cells are texts, at least two different ones; missing cells do not count."""
    present = [text for text in texts if not is_missing(text)]
    others = [text for text in present if not np.isfinite(number_of(text))]
    return 2 * len(others) > len(present) and len(set(others)) > 1


def values_of(texts: Sequence[str], where: str) -> np.ndarray:
    """Return the numbers (N, 1) float32 in the last column.

    Raises:
        InputError: a cell is not a finite number.
    """
    numbers = np.array([number_of(text) for text in texts])
    wrong = np.flatnonzero(~np.isfinite(numbers)).tolist()
    if wrong:
        cells = [f"row {row + 1} ({printable(texts[row], 40)!r})" for row in wrong]
        raise InputError(
            "a target is not a number"
            if len(wrong) == 1
            else f"{len(wrong):,} targets are not numbers",
            where=where,
            expected="finite numbers in the last column, which is the target",
            actual=listed(cells),
            mend="remove rows without a target, move the column to be predicted to the end, or set "
            'data.target = "class"',
        )
    return numbers.astype(np.float32)[:, None]


def classes_of(
    train: Sequence[str], test: Sequence[str], where: str
) -> tuple[str, tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Return the task, the names of the classes, and the class (N,) of each row of both files.

    The classes are the different training cells: in the order of their values if all of them are
    whole numbers (so that 1 and 1.0 are one class), else in alphabetical order.

    Args:
        train: the cells of the last column of train.csv.
        test: those of test.csv.
        where: begins the place that errors name.

    Raises:
        InputError: a label is missing, there is a single class, or the test file has another one.
    """
    for texts, name in ((train, "train.csv"), (test, "test.csv")):
        require_labels(texts, f"{where}{name}")
    columns = np.array([number_of(t) for t in train]), np.array([number_of(t) for t in test])
    labels: tuple[np.ndarray, np.ndarray]
    if all(((abs(c) <= LARGEST_WHOLE) & (c == np.rint(c))).all() for c in columns):
        labels = columns[0].astype(np.int64), columns[1].astype(np.int64)
    else:
        stripped = [np.array([t.strip() for t in texts], np.str_) for texts in (train, test)]
        labels = stripped[0], stripped[1]
    task, names, encoded = targets_of("table", labels, None, where)
    if len(names) < 2:
        raise InputError(
            "there is only one class",
            where=f"{where}train.csv",
            expected="at least two different labels in the last column",
            actual=printable(names[0], 40),
        )
    return task, names, encoded
