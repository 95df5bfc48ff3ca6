"""Tables: numeric and one-hot encoded columns, malformed files, generated ratings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import fuzz, loads_or_is_refused, refusal, save_csvs
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor

from hwnas.data import load_dataset, table_columns
from hwnas.data.generated_tables import NOISE
from hwnas.data.table_cells import number_of
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
        ("age;town;price\n1,5;Ulm;1\n", TEST, "not separated by commas"),
        ("age\ttown\tprice\n1\tUlm\t1\n", TEST, "in place of tabs"),
        (",age,price\n0,3,1\n", TEST, "a column has no name"),
        ("age,price,\n3,1,\n", TEST, "a column has no name"),
        ('age,price\n3,1\n4,"2\n', TEST, "train.csv: line 3: not a CSV file"),
        ("a\0g\0e\0\n", TEST, "a byte of value 0 in line 1"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, train: str, test: str, words: str) -> None:
    assert words in refusal(load_dataset, "table", save_csvs(tmp_path, train, test))


ROWS = "".join(f"{i / 7:.4f},{i % 3},{i}\n" for i in range(40))
HEAD = "x1,x2,y\n"


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "NA", "n/a", "NULL", "None", "?", "-"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_number_is_named(cell: str, split: str, tmp_path: Path) -> None:
    files = {"train": HEAD + ROWS, "test": HEAD + ROWS}
    files[split] = f"{HEAD}0.5,1,2\n{cell},0,0\n{ROWS}"
    message = refusal(load_dataset, "table", save_csvs(tmp_path, **files))
    assert "a number is missing" in message
    assert f"{split}.csv row 2 x1" in message
    assert 'data.missing = "mean"' in message


def test_missing_numbers_become_the_mean_of_the_training_cells(tmp_path: Path) -> None:
    train, test = "a,b,y\n1,5,1\n,6,2\n4,7,3\n", "a,b,y\nNA,8,1\n9,nan,2\n"
    data = load_dataset("table", save_csvs(tmp_path, train, test), missing="mean")
    assert data.train.inputs[:, :, 0, 0].tolist() == [[1, 5], [2.5, 6], [4, 7]]
    assert data.test.inputs[:, :, 0, 0].tolist() == [[2.5, 8], [9, 6]]
    assert data.reading == {"columns": ["a", "b"], "missing": {"a": 2.5, "b": 6.0}}
    (note,) = data.notes
    assert "3 missing cells filled with the mean" in note
    for cell in ("train.csv row 2 a", "test.csv row 1 a", "test.csv row 2 b"):
        assert cell in note


def test_complete_tables_are_the_same_with_either_setting(tmp_path: Path) -> None:
    folder = save_csvs(tmp_path, HEAD + ROWS, HEAD + ROWS)
    refused, filled = (load_dataset("table", folder, missing=m) for m in ("refuse", "mean"))
    np.testing.assert_array_equal(refused.train.inputs, filled.train.inputs)
    assert refused.reading == filled.reading == {"columns": ["x1", "x2"]}
    assert refused.notes == filled.notes == ()


def test_other_datasets_have_no_missing_cells_to_fill(tmp_path: Path) -> None:
    message = refusal(load_dataset, "generated-ratings", missing="mean")
    assert "this dataset has no option missing" in message
    assert "only with the datasets table" in message


@pytest.mark.parametrize("cell", ["1_1", "inf", "-Infinity", "1e99", "12 kg", '"0,5"', "\u0661"])
@pytest.mark.parametrize("missing", ["refuse", "mean"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_something_else_in_a_numeric_column_is_named(
    cell: str, missing: str, split: str, tmp_path: Path
) -> None:
    files = {"train": HEAD + ROWS, "test": HEAD + ROWS}
    files[split] = f"{HEAD}{cell},0,0\n{ROWS}"
    message = refusal(load_dataset, "table", save_csvs(tmp_path, **files), missing=missing)
    assert "a numeric column holds something else" in message
    assert f"{split}.csv row 1 x1 ({cell.strip(chr(34))!r})" in message


def test_bad_cells_of_all_columns_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    train = HEAD + ROWS + ",0,0\n0,,0\n" * 11
    message = refusal(load_dataset, "table", save_csvs(tmp_path, train, HEAD + ROWS))
    assert "22 numbers are missing" in message
    assert message.count("train.csv row") == 10
    assert "and 12 more" in message
    train = HEAD + ROWS + "a,0,0\n0,b,0\n"
    message = refusal(load_dataset, "table", save_csvs(tmp_path, train, HEAD + ROWS))
    assert "2 cells of numeric columns hold something else" in message


def test_numbers_with_underscores_are_texts(tmp_path: Path) -> None:
    ids = "id,y\n" + "".join(f"{i}_{i},{i}\n" for i in range(1, 9))
    data = load_dataset("table", save_csvs(tmp_path, ids, ids))
    assert data.reading["columns"] == [f"id={i}_{i}" for i in range(1, 9)]


@pytest.mark.parametrize("text", ['"0,{}"', "{}%", "1_{}", '"1,{}00.5"'])
def test_texts_that_resemble_numbers_are_noted(text: str, tmp_path: Path) -> None:
    table = "a,y\n" + "".join(f"{text.format(i)},{i}\n" for i in range(1, 5))
    data = load_dataset("table", save_csvs(tmp_path, table, table))
    assert len(data.reading["columns"]) == 4
    (note,) = data.notes
    assert "column a holds 4 different texts that resemble numbers, such as" in note


def test_the_test_file_does_not_decide_the_type_of_a_column(tmp_path: Path) -> None:
    texts = "a,y\nx,1\nz,2\n"
    data = load_dataset("table", save_csvs(tmp_path, texts, "a,y\n1,1\n2,2\n"))
    assert data.reading["columns"] == ["a=x", "a=z"]
    assert not data.test.inputs.any()


@pytest.mark.parametrize("text", ["1", "+1", "-1", "1.", ".5", "1e3", "1.5E-3", " 2 ", "007"])
def test_usual_ways_to_write_numbers_are_read(text: str, tmp_path: Path) -> None:
    table = f"a,y\n{text},1\n0,2\n"
    data = load_dataset("table", save_csvs(tmp_path, table, table))
    assert data.train.inputs[0, 0, 0, 0] == np.float32(float(text))


@pytest.mark.parametrize("target", ["", "NA", "1_1", "inf"])
@pytest.mark.parametrize("missing", ["refuse", "mean"])
def test_missing_targets_are_always_named(target: str, missing: str, tmp_path: Path) -> None:
    folder = save_csvs(tmp_path, f"a,y\n1,1\n2,{target}\n", "a,y\n1,1\n")
    message = refusal(load_dataset, "table", folder, missing=missing)
    assert message.startswith(f"{tmp_path / 'train.csv'}: y: a target is not a number")
    assert f"row 2 ({target!r})" in message


@pytest.mark.parametrize("missing", ["refuse", "mean"])
def test_columns_without_values_are_named(missing: str, tmp_path: Path) -> None:
    folder = save_csvs(tmp_path, "a,b,y\n1,,1\n2,NA,2\n", "a,b,y\n1,2,1\n")
    message = refusal(load_dataset, "table", folder, missing=missing)
    assert message.startswith(f"{tmp_path / 'train.csv'}: b: a column without values")


def test_the_time_to_refuse_a_long_number_grows_with_its_length() -> None:
    # Where two parts of a pattern can match the same digits, this takes hours.
    assert np.isnan(number_of("1" * 500_000 + "x"))


def test_spaces_around_names_of_columns_do_not_count(tmp_path: Path) -> None:
    save_csvs(tmp_path, TRAIN.replace(",price", ", price"), TEST)
    assert load_dataset("table", str(tmp_path)).classes == ("price",)


def test_columns_of_many_texts_and_empty_texts_are_noted(tmp_path: Path) -> None:
    rows = "".join(f"n{i},{'x' if i % 2 else ''},{i}\n" for i in range(30))
    notes = load_dataset("table", save_csvs(tmp_path, "a,b,y\n" + rows, "a,b,y\n" + rows)).notes
    assert any("column a holds 30 different texts, such as 'n0'" in note for note in notes)
    assert any("30 empty cells of column b are a text of their own" in note for note in notes)


def test_constant_columns_are_noted_and_become_zero(tmp_path: Path) -> None:
    data = load_dataset("table", save_csvs(tmp_path, "a,b,y\n1,5,1\n2,5,2\n", "a,b,y\n1,5,1\n"))
    (note,) = data.notes
    assert note.endswith("1 column holds the same value in all training rows: b")
    assert not data.normalise(data.train.inputs)[:, 1].any()


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
    monkeypatch.setattr(table_columns, "MAX_VALUES", 11)
    with pytest.raises(InputError, match="table is too large.*11 values"):
        load_dataset("table", save_csvs(tmp_path, TRAIN, TEST))


def test_generated_likes_are_the_ratings_above_three() -> None:
    likes, ratings = load_dataset("generated-likes"), load_dataset("generated-ratings")
    assert (likes.task, likes.classes) == ("table-classification", ("disliked", "liked"))
    np.testing.assert_array_equal(likes.train.inputs, ratings.train.inputs)
    np.testing.assert_array_equal(likes.test.targets == 1, ratings.test.targets[:, 0] > 3)
