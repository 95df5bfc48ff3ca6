"""The columns of a table as numbers: numeric ones, and texts as categories.

A column is numeric if most of its training cells are numbers; whatever else such a column holds is
an error, except for missing cells, which may be filled in. Every other column holds categories,
which are encoded in one of two ways::

    one-hot    a column for each different text of the training rows, 1 where a cell is that text
    embedding  one column of codes behind all numeric ones: 1 for the first of the sorted texts of
               the training rows, 2 for the second ..., and 0 for a text that they lack. The network
               learns a vector for each code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hwnas.data.table_cells import LIKE_NUMBER, is_missing, is_numeric, listed, number_of
from hwnas.errors import InputError, printable

Missing = Literal["refuse", "mean"]
"""What to do with missing cells in numeric columns."""
Categories = Literal["one-hot", "embedding"]
"""How columns of texts are encoded."""
MAX_CATEGORIES = 1000
"""Largest number of different texts in a column; codes up to 2048 are exact in float16."""
MANY_TEXTS = 20
"""Columns that become more columns than this are named in a note."""
MAX_VALUES = 2**28
"""Largest number of values in the encoded table (1 GiB in float32)."""


@dataclass
class TableColumns:
    """The columns that a model gets, and the cells of numeric columns that are not numbers.

    Attributes:
        where: the folder, for messages.
        encoding: how columns of texts are encoded.
        names: a name for each column.
        train, test: the values of each column.
        categories: the texts of each column of codes, in the order of the codes 1, 2, ...
        means: what missing cells were filled with, for each column that has any.
    """

    where: str
    encoding: Categories = "one-hot"
    names: list[str] = field(default_factory=list)
    train: list[np.ndarray] = field(default_factory=list)
    test: list[np.ndarray] = field(default_factory=list)
    categories: dict[str, list[str]] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    _codes: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _missing: list[str] = field(default_factory=list)
    _wrong: list[str] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    def add(self, name: str, train: Sequence[str], test: Sequence[str]) -> None:
        """Add a column of cells, numeric or of texts as its training cells decide.

        Raises:
            InputError: no training cell has a value, there are too many different texts, or the
                encoded table is too large.
        """
        if is_numeric(train, f"{self.where}/train.csv: {name}"):
            self._add_numbers(name, train, test)
        else:
            self._add_texts(name, train, test)
        if (len(self.names) + len(self._codes)) * (len(train) + len(test)) > MAX_VALUES:
            raise InputError(
                "the table is too large after one-hot encoding",
                where=self.where,
                expected=f"at most {MAX_VALUES:,} values",
                mend="remove columns with many different texts, or set "
                'data.categories = "embedding"',
            )

    def arrays(self, missing: Missing) -> tuple[np.ndarray, np.ndarray]:
        """The training and test rows (N, columns); columns of codes come last.

        Raises:
            InputError: a cell of a numeric column is not a number, or is missing and must not be.
        """
        self._refuse_bad_cells(missing)
        self.names += self.categories
        train = [*self.train, *(codes for codes, _ in self._codes)]
        test = [*self.test, *(codes for _, codes in self._codes)]
        return np.stack(train, axis=1), np.stack(test, axis=1)

    def _add_numbers(self, name: str, train: Sequence[str], test: Sequence[str]) -> None:
        """Add a numeric column; cells that are missing hold the mean of the training cells."""
        numbers = [np.array([number_of(text) for text in texts]) for texts in (train, test)]
        mean = float(np.mean(numbers[0], where=np.isfinite(numbers[0])))
        for file, texts, values in zip(("train", "test"), (train, test), numbers, strict=True):
            for row in np.flatnonzero(~np.isfinite(values)).tolist():
                text = texts[row]
                cell = f"{file}.csv row {row + 1} {printable(name, 40)}"
                if is_missing(text):
                    self._missing.append(cell)
                    self.means[name] = mean
                else:
                    self._wrong.append(f"{cell} ({printable(text, 40)!r})")
            values[~np.isfinite(values)] = mean
        self.names.append(name)
        self.train.append(numbers[0])
        self.test.append(numbers[1])

    def _add_texts(self, name: str, train: Sequence[str], test: Sequence[str]) -> None:
        """Add the categories of a column in the way that `encoding` states."""
        texts = sorted(set(train))
        if len(texts) > MAX_CATEGORIES:
            raise InputError(
                "too many different texts in a column",
                where=f"{self.where}: {name}",
                expected=f"numbers only, or at most {MAX_CATEGORIES} different texts",
                actual=len(texts),
                mend="remove the column",
            )
        self._note_texts(name, texts, [*train, *test])
        index = {text: place for place, text in enumerate(texts)}
        codes = [np.array([index.get(text, -1) for text in rows]) for rows in (train, test)]
        if self.encoding == "embedding":
            self.categories[name] = texts
            self._codes.append((codes[0] + 1, codes[1] + 1))
            return
        for place, text in enumerate(texts):
            self.names.append(f"{name}={text}")
            self.train.append((codes[0] == place).astype(np.float32))
            self.test.append((codes[1] == place).astype(np.float32))

    def _note_texts(self, name: str, texts: Sequence[str], cells: Sequence[str]) -> None:
        """Note what may not have been meant as categories."""
        similar = sum(bool(LIKE_NUMBER.fullmatch(text.strip())) for text in texts)
        becomes_many = len(texts) > MANY_TEXTS and self.encoding == "one-hot"
        if becomes_many or 2 * similar > len(texts):
            resembling = " that resemble numbers" if 2 * similar > len(texts) else ""
            becomes = "becomes as many columns" if self.encoding == "one-hot" else "is not a number"
            self._notes.append(
                f"{self.where}: column {printable(name, 40)} holds {len(texts)} different texts"
                f"{resembling}, such as {printable(texts[0], 40)!r}, and {becomes}"
            )
        empty = sum(not text.strip() for text in cells)
        if empty:
            self._notes.append(
                f"{self.where}: {empty:,} empty cells of column {printable(name, 40)} are a text "
                "of their own"
            )

    def _refuse_bad_cells(self, missing: Missing) -> None:
        """Raise InputError if a cell is not a number, or if cells are missing and must not be."""
        if self._wrong:
            raise InputError(
                "a numeric column holds something else"
                if len(self._wrong) == 1
                else f"{len(self._wrong):,} cells of numeric columns hold something else",
                where=self.where,
                expected="finite numbers in columns whose training cells are mostly numbers",
                actual=listed(self._wrong),
                mend="mend the cells, or make every cell of the column a text",
            )
        if self._missing and missing == "refuse":
            count = len(self._missing)
            raise InputError(
                "a number is missing" if count == 1 else f"{count:,} numbers are missing",
                where=self.where,
                expected="a number in every cell of a numeric column",
                actual=f"no number in {listed(self._missing)}",
                mend='fill the cells in, or set data.missing = "mean"',
            )

    def notes(self) -> tuple[str, ...]:
        """What happened to the cells, in words."""
        notes = list(self._notes)
        names = [name for name in self.names if name not in self.categories]
        constant = [
            printable(name, 40)
            for name, values in zip(names, self.train, strict=True)
            if values.min() == values.max()
        ]
        if constant:
            column = "column holds" if len(constant) == 1 else "columns hold"
            notes.append(
                f"{self.where}: {len(constant):,} {column} the same value in all training rows: "
                f"{listed(constant)}"
            )
        if not self._missing:
            return tuple(notes)
        cells = f"{len(self._missing):,} missing {'cell' if len(self._missing) == 1 else 'cells'}"
        filled = f"{self.where}: {cells} filled with the mean of the column's training cells"
        return (f"{filled}: {listed(self._missing)}", *notes)
