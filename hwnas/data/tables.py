"""Tables from CSV files.

`hwnas.data.table_columns` has how cells become numbers. The last column is the target: values for
regression, or classes. The test rows have no influence on the type of a column. A sample is
(columns, 1, 1).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwnas.data.arrays import KIND
from hwnas.data.formats import REGRESSION, RawData
from hwnas.data.table_columns import Categories, Missing, TableColumns
from hwnas.data.table_targets import Target, classes_of, is_classes, values_of
from hwnas.data.text_files import read_csv
from hwnas.errors import InputError


def read_table_folder(
    path: Path,
    missing: Missing = "refuse",
    categories: Categories = "one-hot",
    target: Target | None = None,
) -> RawData:
    """Read train.csv and test.csv, each with a header; the last column is the target.

    Args:
        path: folder with both files.
        missing: what to do with missing cells in numeric columns: "refuse" the file, or fill in
            the "mean" of the column's training cells. Targets may never be missing.
        categories: how columns of texts are encoded, see `hwnas.data.table_columns`.
        target: what the last column is; if None, a class where its training cells are mostly texts
            and a number otherwise.

    Raises:
        InputError: a file is missing or not a CSV file, the columns of the files differ, a cell of
            a numeric column or a target is not a finite number, or a class is missing or unknown.
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
    labels = [row[-1] for row in train], [row[-1] for row in test]
    task, classes, y_train, y_test = _targets(header[-1], labels, path, target)
    columns = TableColumns(str(path), categories)
    for index, name in enumerate(header[:-1]):
        columns.add(name, [row[index] for row in train], [row[index] for row in test])
    return table_of(task, classes, columns, (y_train, y_test), missing)


def _targets(
    name: str, cells: tuple[list[str], list[str]], path: Path, target: Target | None
) -> tuple[str, tuple[str, ...], np.ndarray, np.ndarray]:
    """Return the task, the classes (or the name of the value), and the targets of both files."""
    if target == "class" or (target is None and is_classes(cells[0])):
        task, classes, (train, test) = classes_of(*cells, f"{path}: {name} of ")
        return task, classes, train, test
    train, test = (
        values_of(texts, f"{path / f'{file}.csv'}: {name}")
        for file, texts in zip(("train", "test"), cells, strict=True)
    )
    return REGRESSION, (name,), train, test


def table_of(
    task: str,
    classes: tuple[str, ...],
    columns: TableColumns,
    targets: tuple[np.ndarray, np.ndarray],
    missing: Missing = "refuse",
) -> RawData:
    """Return encoded columns and targets as what readers return."""
    x_train, x_test = (x.astype(np.float32)[:, :, None, None] for x in columns.arrays(missing))
    reading = {
        "columns": columns.names,
        **({"categories": columns.categories} if columns.categories else {}),
        **({"missing": columns.means} if columns.means else {}),
        **({KIND: "table"} if task != REGRESSION else {}),
    }
    y_train, y_test = targets
    notes = columns.notes()
    return RawData(classes, x_train, y_train, x_test, y_test, task, reading=reading, notes=notes)
