"""Tables for regression, from CSV files or generated, and one for classification.

A column is numeric if most of its training cells are numbers; whatever else such a column holds is
an error, except for missing cells, which may be filled in. Every other column is one-hot encoded:
it becomes one column for each different text in its training rows. The test rows have no influence
on the type of a column. A sample is (columns, 1, 1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from hwnas.data.arrays import KIND
from hwnas.data.formats import REGRESSION, RawData, seeded_rng
from hwnas.data.targets import CLASSIFICATION
from hwnas.data.text_files import read_csv
from hwnas.errors import InputError, printable

Missing = Literal["refuse", "mean"]
"""What to do with missing cells in numeric columns."""

MAX_CATEGORIES = 1000
"""Largest number of different texts in a column."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
LIKE_NUMBER = re.compile(r"[+-]?[0-9][0-9.,'_ ]*%?")
"""Texts that may be meant as numbers, such as 0,5 or 12 %; they are read as texts."""
MAX_NUMBER = float(np.finfo(np.float32).max)
MISSING = frozenset("- . ? #n/a #na -nan <na> missing n.a. n/a na nan nil none null".split()) | {""}
"""Texts that stand for a missing number, in lower case."""
LISTED = 10
"""Number of cells or columns that a message names."""
MANY_TEXTS = 20
"""Columns that become more columns than this are named in a note."""
MAX_VALUES = 2**28
"""Largest number of values in the table after one-hot encoding (1 GiB in float32)."""
USERS, ITEMS, TRAITS = 60, 40, 4
TRAITS_OF_BOTH = [f"{who}_{i}" for who in ("user", "item") for i in range(TRAITS)]
TRAIN, TEST = 4000, 1000
NOISE = 0.3
"""Standard deviation of the noise in generated ratings."""


def generated_ratings() -> RawData:
    """Generate ratings of items by users, to be predicted from the traits of both.

    A user has four traits u and an item has four traits v, all of them columns of the table; the
    rating is 3 + tanh(u . v) + 0.5 sin(2 v_1) + noise. The variance of the noise is therefore the
    smallest squared error that a model can have on average.
    """
    columns, _, ratings = _ratings()
    parts = [columns[:TRAIN], ratings[:TRAIN], columns[TRAIN:], ratings[TRAIN:]]
    return _raw_data("rating", TRAITS_OF_BOTH, *parts)


def generated_likes() -> RawData:
    """Generate the same table with two classes: whether a rating is above 3.

    The best answer is the class of the rating without its noise.
    """
    columns, _, ratings = _ratings()
    inputs, liked = columns.astype(np.float32)[:, :, None, None], (ratings > 3).astype(np.int64)
    return RawData(
        ("disliked", "liked"),
        inputs[:TRAIN],
        liked[:TRAIN],
        inputs[TRAIN:],
        liked[TRAIN:],
        CLASSIFICATION["table"],
        reading={"columns": TRAITS_OF_BOTH, KIND: "table"},
    )


def _ratings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the traits of users and items, the ratings without their noise, and the ratings."""
    rng = seeded_rng(0, "ratings")
    users, items = rng.standard_normal((USERS, TRAITS)), rng.standard_normal((ITEMS, TRAITS))
    count = TRAIN + TEST
    user, item = users[rng.integers(0, USERS, count)], items[rng.integers(0, ITEMS, count)]
    truth = 3 + np.tanh((user * item).sum(axis=1)) + 0.5 * np.sin(2 * item[:, 0])
    ratings = truth + NOISE * rng.standard_normal(count)
    return np.concatenate([user, item], axis=1), truth, ratings


def read_table_folder(path: Path, missing: Missing = "refuse") -> RawData:
    """Read train.csv and test.csv, each with a header; the last column is the target.

    Args:
        path: folder with both files.
        missing: what to do with missing cells in numeric columns: "refuse" the file, or fill in
            the "mean" of the column's training cells. Targets may never be missing.

    Raises:
        InputError: a file is missing or not a CSV file, the columns of the files differ, or a
            cell of a numeric column or a target is not a finite number.
    """
    (header, train), (other, test) = (read_csv(path / f"{n}.csv") for n in ("train", "test"))
    if len(header) < 2:
        where = str(path / "train.csv")
        raise InputError(
            "no columns to predict the target from",
            where=where,
            expected="at least two columns, the last one being the target",
        )
    if header != other:
        raise InputError(
            "the columns differ from those of train.csv",
            where=str(path / "test.csv"),
            expected=",".join(header),
            actual=",".join(other),
        )
    cells = [
        [[row[index] for row in rows] for rows in (train, test)] for index in range(len(header))
    ]
    y_train = _targets(cells[-1][0], f"{path / 'train.csv'}: {header[-1]}")
    y_test = _targets(cells[-1][1], f"{path / 'test.csv'}: {header[-1]}")
    columns = _Columns(str(path))
    for name, (texts, others) in zip(header[:-1], cells, strict=False):
        if _is_numeric(texts, f"{path / 'train.csv'}: {name}"):
            columns.add_numbers(name, texts, others)
        else:
            columns.add_texts(name, texts, others)
        if len(columns.names) * (len(train) + len(test)) > MAX_VALUES:
            raise InputError(
                "the table is too large after one-hot encoding",
                where=str(path),
                expected=f"at most {MAX_VALUES:,} values",
                mend="remove columns with many different texts",
            )
    columns.refuse_bad_cells(missing)
    x_train, x_test = (np.stack(values, axis=1) for values in (columns.train, columns.test))
    raw = _raw_data(header[-1], columns.names, x_train, y_train, x_test, y_test)
    reading = {**raw.reading, **({"missing": columns.means} if columns.means else {})}
    return raw._replace(reading=reading, notes=columns.notes())


@dataclass
class _Columns:
    """The columns that a model gets, and the cells of numeric columns that are not numbers.

    Attributes:
        where: the folder, for messages.
        names: a name for each column.
        train, test: the values of each column.
        means: what missing cells were filled with, for each column that has any.
    """

    where: str
    names: list[str] = field(default_factory=list)
    train: list[np.ndarray] = field(default_factory=list)
    test: list[np.ndarray] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)
    _missing: list[str] = field(default_factory=list)
    _wrong: list[str] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    def add_numbers(self, name: str, train: Sequence[str], test: Sequence[str]) -> None:
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

    def add_texts(self, name: str, train: Sequence[str], test: Sequence[str]) -> None:
        """Add one column for each different text of a column."""
        texts = sorted(set(train))
        if len(texts) > MAX_CATEGORIES:
            raise InputError(
                "too many different texts in a column",
                where=f"{self.where}: {name}",
                expected=f"numbers only, or at most {MAX_CATEGORIES} different texts",
                actual=len(texts),
                mend="remove the column",
            )
        similar = sum(bool(LIKE_NUMBER.fullmatch(text.strip())) for text in texts)
        if len(texts) > MANY_TEXTS or 2 * similar > len(texts):
            resembling = " that resemble numbers" if 2 * similar > len(texts) else ""
            self._notes.append(
                f"{self.where}: column {printable(name, 40)} holds {len(texts)} different texts"
                f"{resembling}, such as {printable(texts[0], 40)!r}, and becomes as many columns"
            )
        empty = sum(not text.strip() for text in (*train, *test))
        if empty:
            self._notes.append(
                f"{self.where}: {empty:,} empty cells of column {printable(name, 40)} are a text "
                "of their own"
            )
        index = {text: place for place, text in enumerate(texts)}
        codes = [np.array([index.get(text, -1) for text in rows]) for rows in (train, test)]
        for place, text in enumerate(texts):
            self.names.append(f"{name}={text}")
            self.train.append((codes[0] == place).astype(np.float32))
            self.test.append((codes[1] == place).astype(np.float32))

    def refuse_bad_cells(self, missing: Missing) -> None:
        """Raise InputError if a cell is not a number, or if cells are missing and must not be."""
        if self._wrong:
            raise InputError(
                "a numeric column holds something else"
                if len(self._wrong) == 1
                else f"{len(self._wrong):,} cells of numeric columns hold something else",
                where=self.where,
                expected="finite numbers in columns whose training cells are mostly numbers",
                actual=_listed(self._wrong),
                mend="mend the cells, or make every cell of the column a text",
            )
        if self._missing and missing == "refuse":
            count = len(self._missing)
            raise InputError(
                "a number is missing" if count == 1 else f"{count:,} numbers are missing",
                where=self.where,
                expected="a number in every cell of a numeric column",
                actual=f"no number in {_listed(self._missing)}",
                mend='fill the cells in, or set data.missing = "mean"',
            )

    def notes(self) -> tuple[str, ...]:
        """What happened to the cells, in words."""
        notes = list(self._notes)
        constant = [
            printable(name, 40)
            for name, values in zip(self.names, self.train, strict=True)
            if values.min() == values.max()
        ]
        if constant:
            column = "column holds" if len(constant) == 1 else "columns hold"
            notes.append(
                f"{self.where}: {len(constant):,} {column} the same value in all training rows: "
                f"{_listed(constant)}"
            )
        if not self._missing:
            return tuple(notes)
        cells = f"{len(self._missing):,} missing {'cell' if len(self._missing) == 1 else 'cells'}"
        filled = f"{self.where}: {cells} filled with the mean of the column's training cells"
        return (f"{filled}: {_listed(self._missing)}", *notes)


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _targets(texts: Sequence[str], where: str) -> np.ndarray:
    """Return the numbers in the last column."""
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
            actual=_listed(cells),
            mend="remove rows without a target, or move the column to be predicted to the end",
        )
    return numbers


def _is_numeric(texts: Sequence[str], where: str) -> bool:
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
    value = float(text) if NUMBER.fullmatch(text.strip()) else np.nan
    return value if abs(value) <= MAX_NUMBER else np.nan


def _raw_data(
    target: str,
    names: Sequence[str],
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
) -> RawData:
    inputs = (x.astype(np.float32)[:, :, None, None] for x in (x_train, x_test))
    targets = (y.astype(np.float32)[:, None] for y in (y_train, y_test))
    (x_train, x_test), (y_train, y_test) = inputs, targets
    reading = {"columns": list(names)}
    return RawData((target,), x_train, y_train, x_test, y_test, REGRESSION, reading=reading)
