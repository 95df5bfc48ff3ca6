"""Tables for regression, from CSV files or generated.

Numeric columns are used as they are. Every other column is one-hot encoded: it becomes one column
for each different text in its training rows. A sample is (columns, 1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwnas.data.formats import RawData, seeded_rng
from hwnas.data.text_files import read_csv
from hwnas.errors import InputError

TASK = "regression"
MAX_CATEGORIES = 1000
"""Largest number of different texts in a column."""
MAX_VALUES = 2**28
"""Largest number of values in the table after one-hot encoding (1 GiB in float32)."""
USERS, ITEMS, TRAITS = 60, 40, 4
TRAIN, TEST = 4000, 1000
NOISE = 0.3
"""Standard deviation of the noise in generated ratings."""


def generated_ratings() -> RawData:
    """Generate ratings of items by users, to be predicted from the traits of both.

    A user has four traits u and an item has four traits v, all of them columns of the table; the
    rating is 3 + tanh(u . v) + 0.5 sin(2 v_1) + noise. The variance of the noise is therefore the
    smallest squared error that a model can have on average.
    """
    rng = seeded_rng(0, "ratings")
    users, items = rng.standard_normal((USERS, TRAITS)), rng.standard_normal((ITEMS, TRAITS))
    count = TRAIN + TEST
    user, item = users[rng.integers(0, USERS, count)], items[rng.integers(0, ITEMS, count)]
    truth = 3 + np.tanh((user * item).sum(axis=1)) + 0.5 * np.sin(2 * item[:, 0])
    ratings = truth + NOISE * rng.standard_normal(count)
    names = [f"{who}_{i}" for who in ("user", "item") for i in range(TRAITS)]
    columns = np.concatenate([user, item], axis=1)
    parts = [columns[:TRAIN], ratings[:TRAIN], columns[TRAIN:], ratings[TRAIN:]]
    return _raw_data("rating", names, *parts)


def read_table_folder(path: Path) -> RawData:
    """Read train.csv and test.csv, each with a header; the last column is the target.

    Raises:
        InputError: a file is missing or not a CSV file, the columns of the files differ, or a
            target is not a finite number.
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
    y_train = _targets(train, f"{path / 'train.csv'}: {header[-1]}")
    y_test = _targets(test, f"{path / 'test.csv'}: {header[-1]}")
    names: list[str] = []
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    samples = len(train) + len(test)
    for index, name in enumerate(header[:-1]):
        texts, others = ([row[index] for row in rows] for rows in (train, test))
        for label, values in _columns_of(name, texts, others, str(path)):
            names.append(label)
            columns.append(values)
        if len(columns) * samples > MAX_VALUES:
            raise InputError(
                "the table is too large after one-hot encoding",
                where=str(path),
                expected=f"at most {MAX_VALUES:,} values",
                mend="remove columns with many different texts",
            )
    x_train, x_test = (np.stack([pair[i] for pair in columns], axis=1) for i in (0, 1))
    return _raw_data(header[-1], names, x_train, y_train, x_test, y_test)


def _targets(rows: Sequence[Sequence[str]], where: str) -> np.ndarray:
    """Return the numbers in the last column."""
    numbers = _numbers([row[-1] for row in rows])
    if numbers is None:
        raise InputError(
            "a target is not a number",
            where=where,
            expected="finite numbers in the last column, which is the target",
            mend="move the column to be predicted to the end",
        )
    return numbers


def _columns_of(
    name: str, train: Sequence[str], test: Sequence[str], where: str
) -> list[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Encode one column of the files as named columns, each with training and test values."""
    numbers = _numbers(train), _numbers(test)
    if numbers[0] is not None and numbers[1] is not None:
        return [(name, (numbers[0], numbers[1]))]
    texts = sorted(set(train))
    if len(texts) > MAX_CATEGORIES:
        raise InputError(
            "too many different texts in a column",
            where=f"{where}: {name}",
            expected=f"numbers only, or at most {MAX_CATEGORIES} different texts",
            actual=len(texts),
            mend="remove the column",
        )
    both = np.array(train), np.array(test)
    return [
        (f"{name}={text}", tuple(np.equal(values, text).astype(np.float32) for values in both))
        for text in texts
    ]


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    """Return the texts as numbers; None unless all of them are numbers and finite in float32."""
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return values if (np.abs(values) <= np.finfo(np.float32).max).all() else None


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
    return RawData((target,), x_train, y_train, x_test, y_test, TASK, reading=reading)
