"""Tables: numeric and one-hot encoded columns, malformed files, generated ratings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import fuzz, loads_or_is_refused, refusal, save_csvs
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor

from hwnas.data import load_dataset, tables
from hwnas.data.tables import NOISE
from hwnas.errors import InputError

TRAIN = "age,town,price\n1,Ulm,10\n2.5,Bonn,20\n3,Ulm,40\n"
TEST = "age,town,price\n7,Rome,5\n"


def test_numeric_columns_are_kept_and_text_columns_one_hot_encoded(tmp_path: Path) -> None:
    data = load_dataset("table", save_csvs(tmp_path, TRAIN, TEST))
    assert data.task == "regression"
    assert data.classes == ("price",)
    assert data.reading == {"columns": ["age", "town=Bonn", "town=Ulm"]}
    assert data.train.inputs[:, :, 0, 0].tolist() == [[1, 0, 1], [2.5, 1, 0], [3, 0, 1]]
    # A town that does not occur in the training rows has no column.
    assert data.test.inputs[:, :, 0, 0].tolist() == [[7, 0, 0]]
    assert data.train.targets.tolist() == [[10], [20], [40]]
    inputs = data.train.inputs[:, :, 0, 0].astype(np.float64)
    expected = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    found = data.normalise(data.train.inputs)[:, :, 0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "train, test, words",
    [
        (TRAIN, "age,city,price\n1,Ulm,1\n", "the columns differ from those of train.csv"),
        ("age,town,price\n1,Ulm,dear\n", TEST, "expected finite numbers"),
        ("age,town,price\n1,Ulm,inf\n", TEST, "expected finite numbers"),
        ("age,town,price\n1,Ulm\n", TEST, "row 1"),
        ("age,age,price\n1,2,3\n", TEST, "two columns have the same name"),
        ("price\n1\n", TEST, "no columns to predict the target from"),
        ("age,town,price\n", TEST, "no samples"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, train: str, test: str, words: str) -> None:
    assert words in refusal(load_dataset, "table", save_csvs(tmp_path, train, test))


def test_constant_columns_are_refused_when_normalising(tmp_path: Path) -> None:
    data = load_dataset("table", save_csvs(tmp_path, "a,b,y\n1,5,1\n2,5,2\n", "a,b,y\n1,5,1\n"))
    assert "channel 1" in refusal(lambda: data.std)


@fuzz
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_loads_or_is_refused(tmp_path: Path, train: str, test: str) -> None:
    save_csvs(tmp_path, "a,b\n" + train, "a,b\n" + test)
    loads_or_is_refused("table", tmp_path)


def test_generated_ratings_are_predictable_up_to_their_noise_by_a_nonlinear_model() -> None:
    data = load_dataset("generated-ratings")
    x, y = data.train.inputs[:, :, 0, 0], data.train.targets[:, 0]
    forest = RandomForestRegressor(60, random_state=0, n_jobs=1).fit(x, y)
    error = forest.predict(data.test.inputs[:, :, 0, 0]) - data.test.targets[:, 0]
    variance, best = data.test.targets.var(), NOISE**2
    assert 0.9 * best < np.mean(error**2) < 0.5 * variance
    linear = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    flat = np.c_[data.test.inputs[:, :, 0, 0], np.ones(len(data.test))] @ linear
    # The ratings depend on interactions of traits, which a linear model cannot represent.
    assert np.mean((flat - data.test.targets[:, 0]) ** 2) > 1.3 * np.mean(error**2)


def test_byte_order_marks_are_dropped_and_unicode_line_separators_kept(tmp_path: Path) -> None:
    train = "\ufefftown,price\nUlm\u2028so,10\nBonn,20\n"
    data = load_dataset("table", save_csvs(tmp_path, train, "town,price\nBonn,5\n"))
    assert data.reading == {"columns": ["town=Bonn", "town=Ulm\u2028so"]}


def test_tables_that_are_too_large_once_encoded_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "MAX_VALUES", 11)
    with pytest.raises(InputError, match="table is too large.*11 values"):
        load_dataset("table", save_csvs(tmp_path, TRAIN, TEST))
