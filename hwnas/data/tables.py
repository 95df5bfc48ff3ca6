"""Tables with a number to predict: CSV files, and ratings that are generated.

Columns of numbers are taken as they are. Columns of anything else become one column for each text
that the training rows have, 1 where it stands and 0 elsewhere. A sample is (columns, 1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwnas.data.formats import RawData, seeded_rng
from hwnas.data.text_files import read_csv
from hwnas.errors import InputError

TASK = "regression"
MOST_TEXTS = 1000
"""Different texts of a column."""
MOST_VALUES = 2**28
"""Values of a table, with a column for each text: 1 GB."""
USERS, ITEMS, TRAITS = 60, 40, 4
TRAIN, TEST = 4000, 1000
NOISE = 0.3
"""Standard deviation of the noise in generated ratings."""


def generated_ratings() -> RawData:
    """Ratings of items by users, from what is known of both.

    Each user and item has four traits, of which the table shows noiseless values; a rating is
    3 + tanh(traits . traits) + 0.5 sin(2 first trait of the item) + noise. So what can be
    explained at best is known: all but the noise.
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
    """Read train.csv and test.csv with a header each; the last column is to be predicted.

    Raises:
        InputError: a missing file, no CSV, other columns in both, or a target that is no number.
    """
    (header, train), (other, test) = (read_csv(path / f"{n}.csv") for n in ("train", "test"))
    if len(header) < 2:
        where = str(path / "train.csv")
        raise InputError("nothing to learn from", where=where, expected="two columns or more")
    if header != other:
        raise InputError(
            "other columns than train.csv has",
            where=str(path / "test.csv"),
            expected=header,
            actual=other,
        )
    targets = []
    for name, rows in (("train", train), ("test", test)):
        numbers = _numbers([row[-1] for row in rows])
        if numbers is None:
            where = f"{path / name}.csv: {header[-1]}"
            raise InputError("a target is no finite number", where=where)
        targets.append(numbers)
    names: list[str] = []
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    samples = len(train) + len(test)
    for index, name in enumerate(header[:-1]):
        texts, others = ([row[index] for row in rows] for rows in (train, test))
        for label, values in _columns_of(name, texts, others, str(path)):
            names.append(label)
            columns.append(values)
        if len(columns) * samples > MOST_VALUES:
            raise InputError(
                "a gigantic table, with a column for each text",
                where=str(path),
                expected=f"{MOST_VALUES:,} values at most",
                mend="leave out columns of many different texts",
            )
    arrays = [np.stack([pair[i] for pair in columns], axis=1) for i in (0, 1)]
    return _raw_data(header[-1], names, arrays[0], targets[0], arrays[1], targets[1])


def _columns_of(
    name: str, train: Sequence[str], test: Sequence[str], where: str
) -> list[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """The columns that one column of a file becomes, by name, of both splits."""
    numbers = _numbers(train), _numbers(test)
    if numbers[0] is not None and numbers[1] is not None:
        return [(name, (numbers[0], numbers[1]))]
    texts = sorted(set(train))
    if len(texts) > MOST_TEXTS:
        raise InputError(
            "too many different texts",
            where=f"{where}: {name}",
            expected=f"at most {MOST_TEXTS}",
            actual=len(texts),
        )
    both = np.array(train), np.array(test)
    return [
        (f"{name}={text}", tuple(np.equal(values, text).astype(np.float32) for values in both))
        for text in texts
    ]


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    """All texts as numbers that are finite in float32, or None when one is none."""
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
