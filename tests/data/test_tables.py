"""Tables: columns of numbers and texts, files that are broken, what of ratings can be explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import fuzz, loads_or_is_refused, refusal
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor

from hwnas.data import load_dataset, tables
from hwnas.data.tables import NOISE
from hwnas.errors import InputError

TRAIN = "age,town,price\n1,Ulm,10\n2.5,Bonn,20\n3,Ulm,40\n"
TEST = "age,town,price\n7,Rome,5\n"


def save(folder: Path, train: str = TRAIN, test: str = TEST) -> str:
    (folder / "train.csv").write_text(train)
    (folder / "test.csv").write_text(test)
    return str(folder)


def test_files_become_columns(tmp_path: Path) -> None:
    data = load_dataset("table", save(tmp_path))
    assert data.task == "regression"
    assert data.classes == ("price",)
    assert data.reading == {"columns": ["age", "town=Bonn", "town=Ulm"]}
    assert data.train.inputs[:, :, 0, 0].tolist() == [[1, 0, 1], [2.5, 1, 0], [3, 0, 1]]
    # A town without training rows is none of them.
    assert data.test.inputs[:, :, 0, 0].tolist() == [[7, 0, 0]]
    assert data.train.targets.tolist() == [[10], [20], [40]]
    inputs = data.train.inputs[:, :, 0, 0].astype(np.float64)
    expected = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    found = data.normalise(data.train.inputs)[:, :, 0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "train,test,words",
    [
        (TRAIN, "age,city,price\n1,Ulm,1\n", "other columns"),
        ("age,town,price\n1,Ulm,dear\n", TEST, "no finite number"),
        ("age,town,price\n1,Ulm,inf\n", TEST, "no finite number"),
        ("age,town,price\n1,Ulm\n", TEST, "row 1"),
        ("age,age,price\n1,2,3\n", TEST, "two columns of one name"),
        ("price\n1\n", TEST, "nothing to learn from"),
        ("age,town,price\n", TEST, "no samples"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, train: str, test: str, words: str) -> None:
    assert words in refusal(load_dataset, "table", save(tmp_path, train, test))


def test_constant_columns_are_named(tmp_path: Path) -> None:
    data = load_dataset("table", save(tmp_path, "a,b,y\n1,5,1\n2,5,2\n", "a,b,y\n1,5,1\n"))
    assert "channel 1" in refusal(lambda: data.std)


@fuzz
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_loads_or_is_refused(tmp_path: Path, train: str, test: str) -> None:
    for name, text in (("train", train), ("test", test)):
        (tmp_path / f"{name}.csv").write_text("a,b\n" + text, "utf-8", "surrogatepass")
    loads_or_is_refused("table", tmp_path)


def test_ratings_can_be_explained_but_for_their_noise() -> None:
    data = load_dataset("generated-ratings")
    x, y = data.train.inputs[:, :, 0, 0], data.train.targets[:, 0]
    forest = RandomForestRegressor(60, random_state=0, n_jobs=1).fit(x, y)
    error = forest.predict(data.test.inputs[:, :, 0, 0]) - data.test.targets[:, 0]
    variance, best = data.test.targets.var(), NOISE**2
    assert 0.9 * best < np.mean(error**2) < 0.5 * variance
    linear = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    flat = np.c_[data.test.inputs[:, :, 0, 0], np.ones(len(data.test))] @ linear
    # What matters is how traits go together.
    assert np.mean((flat - data.test.targets[:, 0]) ** 2) > 1.3 * np.mean(error**2)


def test_rows_end_where_lines_do_and_marks_of_spreadsheets_are_no_names(tmp_path: Path) -> None:
    train = "\ufefftown,price\nUlm\u2028so,10\nBonn,20\n"
    data = load_dataset("table", save(tmp_path, train, "town,price\nBonn,5\n"))
    assert data.reading == {"columns": ["town=Bonn", "town=Ulm\u2028so"]}


def test_gigantic_tables_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "MOST_VALUES", 11)
    with pytest.raises(InputError, match="gigantic table.*11 values"):
        load_dataset("table", save(tmp_path))
