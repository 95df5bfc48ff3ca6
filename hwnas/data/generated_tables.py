"""Generated tables whose truth is known: ratings, likes, and patients with a rare disease."""

from __future__ import annotations

import numpy as np

from hwnas.data.arrays import KIND
from hwnas.data.formats import REGRESSION, RawData, seeded_rng
from hwnas.data.table_columns import Categories, TableColumns
from hwnas.data.tables import table_of
from hwnas.data.targets import CLASSIFICATION

USERS, ITEMS, TRAITS = 60, 40, 4
TRAITS_OF_BOTH = [f"{who}_{i}" for who in ("user", "item") for i in range(TRAITS)]
TRAIN, TEST = 4000, 1000
NOISE = 0.3
"""Standard deviation of the noise in generated ratings."""
PATIENTS, TEST_PATIENTS = 6000, 3000
CLINICS = 30
SMOKING = ("never", "former", "daily")


def generated_ratings() -> RawData:
    """Generate ratings of items by users, to be predicted from the traits of both.

    A user has four traits u and an item has four traits v, all of them columns of the table; the
    rating is 3 + tanh(u . v) + 0.5 sin(2 v_1) + noise. The variance of the noise is therefore the
    smallest squared error that a model can have on average.
    """
    columns, _, ratings = _ratings()
    inputs = columns.astype(np.float32)[:, :, None, None]
    values = ratings.astype(np.float32)[:, None]
    return RawData(
        ("rating",),
        inputs[:TRAIN],
        values[:TRAIN],
        inputs[TRAIN:],
        values[TRAIN:],
        REGRESSION,
        reading={"columns": TRAITS_OF_BOTH},
    )


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


def generated_disease(categories: Categories = "one-hot") -> RawData:
    """Generate patients, about one in sixteen of whom has a disease; `disease_risk` is the truth.

    Age, blood pressure and a marker are numbers; clinic and smoking are texts. A classifier that
    knew the risk of each patient would have the largest area under the ROC curve that there is.

    Args:
        categories: how columns of texts are encoded.
    """
    cells, _, is_ill = _patients()
    columns = TableColumns("generated-disease", categories)
    for name, column in cells.items():
        columns.add(name, column[:PATIENTS], column[PATIENTS:])
    labels = is_ill.astype(np.int64)
    targets = labels[:PATIENTS], labels[PATIENTS:]
    return table_of(CLASSIFICATION["table"], ("healthy", "ill"), columns, targets)


def disease_risk() -> np.ndarray:
    """The probability (`TEST_PATIENTS`,) with which each test patient has the disease."""
    return _patients()[1][PATIENTS:]


def _patients() -> tuple[dict[str, list[str]], np.ndarray, np.ndarray]:
    """Return the cells of each column, the risk of each patient, and who has the disease."""
    rng, count = seeded_rng(0, "patients"), PATIENTS + TEST_PATIENTS
    age = rng.uniform(20, 80, count).round(1)
    pressure, marker = rng.normal(125, 15, count).round(), rng.exponential(1, count).round(2)
    clinic, effects = rng.integers(0, CLINICS, count), rng.normal(0, 1.5, CLINICS)
    smoking, weights = rng.integers(0, len(SMOKING), count), np.array([0.0, 0.4, 1.2])
    logit = 0.06 * (age - 50) + (pressure - 125) / 15 * (marker - 1) + weights[smoking]
    risk = 1 / (1 + np.exp(5.0 - logit - effects[clinic]))
    cells = {
        "clinic": [f"clinic {number}" for number in clinic.tolist()],
        "age": list(map(str, age.tolist())),
        "pressure": list(map(str, pressure.tolist())),
        "smoking": [SMOKING[place] for place in smoking.tolist()],
        "marker": list(map(str, marker.tolist())),
    }
    return cells, risk, rng.random(count) < risk


def _ratings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the traits of users and items, the ratings without their noise, and the ratings."""
    rng = seeded_rng(0, "ratings")
    users, items = rng.standard_normal((USERS, TRAITS)), rng.standard_normal((ITEMS, TRAITS))
    count = TRAIN + TEST
    user, item = users[rng.integers(0, USERS, count)], items[rng.integers(0, ITEMS, count)]
    truth = 3 + np.tanh((user * item).sum(axis=1)) + 0.5 * np.sin(2 * item[:, 0])
    ratings = truth + NOISE * rng.standard_normal(count)
    return np.concatenate([user, item], axis=1), truth, ratings
