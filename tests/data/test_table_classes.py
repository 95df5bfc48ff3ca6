"""Tables whose last column is a class, and columns of categories as codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import refusal, save_csvs
from sklearn.metrics import roc_auc_score

from hwnas.data import load_dataset
from hwnas.data.generated_tables import disease_risk

TRAIN = "age,town,disease\n1,Ulm,no\n2,Bonn,yes\n3,Ulm,no\n"
TEST = "age,town,disease\n7,Rome,yes\n"


def test_labels_as_texts_are_classes(tmp_path: Path) -> None:
    data = load_dataset("table", save_csvs(tmp_path, TRAIN, TEST))
    assert (data.task, data.classes) == ("table-classification", ("no", "yes"))
    assert data.train.targets.tolist() == [0, 1, 0]
    assert data.test.targets.tolist() == [1]
    assert data.reading["input_kind"] == "table"
    assert "categories" not in data.reading


def test_labels_as_numbers_are_classes_where_that_is_stated(tmp_path: Path) -> None:
    train, test = "a,y\n1,10\n2,9\n3,1.0\n4,1\n", "a,y\n5,9.0\n"
    folder = save_csvs(tmp_path, train, test)
    data = load_dataset("table", folder, target="class")
    assert data.classes == ("1", "9", "10")  # by value, and 1.0 is 1
    assert data.train.targets.tolist() == [2, 1, 0, 0]
    assert data.test.targets.tolist() == [1]
    assert load_dataset("table", folder).task == "regression"


def test_labels_that_are_no_whole_numbers_are_texts(tmp_path: Path) -> None:
    folder = save_csvs(tmp_path, "a,y\n1,0.5\n2, x \n3,7\n", "a,y\n1,x\n")
    data = load_dataset("table", folder, target="class")
    assert data.classes == ("0.5", "7", "x")
    assert data.test.targets.tolist() == [2]


@pytest.mark.parametrize(
    "train, test, words",
    [
        (TRAIN + "4,Ulm,\n", TEST, ["disease of train.csv", "row 4", "a label is missing"]),
        (TRAIN, TEST + "4,Ulm, \n", ["disease of test.csv", "row 2", "a label is missing"]),
        (TRAIN, TEST + "4,Ulm,maybe\n", ["targets of unknown classes", "maybe"]),
        ("a,y\n1,yes\n2,yes\n", "a,y\n1,yes\n", ["there is only one class", "yes"]),
    ],
)
def test_labels_that_do_not_serve_are_named(tmp_path: Path, train, test, words) -> None:
    message = refusal(load_dataset, "table", save_csvs(tmp_path, train, test), target="class")
    assert all(word in message for word in words), message


def test_values_cannot_be_texts(tmp_path: Path) -> None:
    message = refusal(load_dataset, "table", save_csvs(tmp_path, TRAIN, TEST), target="number")
    assert "3 targets are not numbers" in message
    assert 'data.target = "class"' in message


def test_categories_become_codes_behind_the_numbers(tmp_path: Path) -> None:
    train = "town,age,job,y\nUlm,1,x,no\nBonn,2,y,yes\nUlm,3,x,no\n"
    folder = save_csvs(tmp_path, train, "town,age,job,y\nRome,7,y,yes\n")
    data = load_dataset("table", folder, categories="embedding")
    assert data.reading["columns"] == ["age", "town", "job"]
    assert data.reading["categories"] == {"town": ["Bonn", "Ulm"], "job": ["x", "y"]}
    assert data.categories == (3, 3)
    assert data.train.inputs[:, :, 0, 0].tolist() == [[1, 2, 1], [2, 1, 2], [3, 2, 1]]
    assert data.test.inputs[:, :, 0, 0].tolist() == [[7, 0, 2]]  # 0 is a text without a code
    normalised = data.normalise(data.train.inputs)[:, :, 0, 0].numpy()
    np.testing.assert_array_equal(normalised[:, 1:], data.train.inputs[:, 1:, 0, 0])
    assert normalised[:, 0] == pytest.approx((np.arange(3) - 1) / np.std([1, 2, 3]))


def test_other_datasets_have_no_categories_to_encode() -> None:
    message = refusal(load_dataset, "generated-ratings", categories="embedding")
    assert "no option categories" in message


def test_the_disease_is_rare_and_its_risk_is_the_truth() -> None:
    data, risk = load_dataset("generated-disease", categories="embedding"), disease_risk()
    ill = data.test.targets
    assert 0.04 < ill.mean() < 0.08
    # Mean of the risks among groups of equal size by risk, within four standard errors.
    for group in np.array_split(np.argsort(risk), 5):
        error = np.sqrt((risk[group] * (1 - risk[group])).sum()) / len(group)
        assert abs(ill[group].mean() - risk[group].mean()) < 4 * error
    assert roc_auc_score(ill, risk) == pytest.approx(0.8983, abs=1e-4)


def test_labels_that_floats_cannot_tell_apart_are_different_classes(tmp_path: Path) -> None:
    text = f"x,y\n1,{2**53}\n2,{2**53 + 1}\n3,{10**20}\n"
    data = load_dataset("table", save_csvs(tmp_path, text, text), target="class")
    assert sorted(data.classes) == sorted(map(str, (2**53, 2**53 + 1, 10**20)))
