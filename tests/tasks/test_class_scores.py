"""Scores and weights for classes of unequal size against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hwnas.config import TaskConfig
from hwnas.data import Dataset, Split
from hwnas.errors import InputError
from hwnas.tasks import Task, task_of

CLASSES = ("a", "b", "c")
METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "pr_auc")


def rows(labels: list[int] | np.ndarray, classes: tuple[str, ...] = CLASSES, **stated) -> Task:
    """A classification of tables with these training labels."""
    inputs = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    split = Split(inputs, np.array(labels, np.int64))
    data = Dataset("made up", classes, split, split, "table-classification")
    return task_of(data, TaskConfig(**stated))


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=40), st.integers(0, 99))
def test_areas_and_balanced_accuracy_match_scikit_learn(labels, seed) -> None:
    targets = np.array([0, 1, 2, *labels])
    # Few different scores, so that ties occur.
    logits = np.random.default_rng(seed).integers(-2, 3, (len(targets), 3)).astype(np.float64)
    parts = slice(0, 4), slice(4, None)
    tensors = torch.from_numpy(logits), torch.from_numpy(targets)
    found = rows(targets).metrics([tuple(t[part] for t in tensors) for part in parts])
    scores = softmax(logits)
    for place, row in enumerate(found["per_class"]):
        is_class = targets == place
        areas = reference.roc_auc_score(is_class, scores[:, place])
        assert row["roc_auc"] == pytest.approx(areas, abs=1e-6)
        precision = reference.average_precision_score(is_class, scores[:, place])
        assert row["pr_auc"] == pytest.approx(precision, abs=1e-6)
    assert found["roc_auc"] == pytest.approx(np.mean([r["roc_auc"] for r in found["per_class"]]))
    assert found["pr_auc"] == pytest.approx(np.mean([r["pr_auc"] for r in found["per_class"]]))
    balanced = reference.balanced_accuracy_score(targets, logits.argmax(axis=1))
    assert found["balanced_accuracy"] == pytest.approx(balanced)


def test_probabilities_near_one_are_no_ties() -> None:
    """They are equal in float32, where the area would be a half."""
    logits = torch.tensor([[0.0, 30.0], [0.0, 32.0]])
    found = rows([0, 1], ("no", "yes")).metrics([(logits, torch.tensor([0, 1]))])
    assert found["roc_auc"] == 1.0


def test_a_class_without_samples_has_no_area_and_does_not_count() -> None:
    targets = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[2.0, 0, 9], [1.0, 0, 0], [0, 3.0, 0], [0, 1.0, 5]])
    found = rows([0, 1, 2]).metrics([(logits, targets)])
    assert [row["roc_auc"] for row in found["per_class"]][2] is None
    known = [row["pr_auc"] for row in found["per_class"]]
    assert known[2] is None
    assert found["pr_auc"] == pytest.approx((known[0] + known[1]) / 2)
    assert found["balanced_accuracy"] == 0.5 * (0.5 + 0.5)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_the_chance_level_of_each_score_is_that_of_the_best_constant_answer(labels) -> None:
    targets = np.array([0, 1, 2, *labels])
    answers = [torch.eye(3)[[place] * len(targets)] for place in range(3)]
    for metric in METRICS:
        task = rows(targets, metric=metric)
        best = max(task.score([(logits, torch.from_numpy(targets))]) for logits in answers)
        assert task.metric == metric
        assert task.constant_score(targets) == pytest.approx(best), metric


def test_balanced_weights_make_every_class_count_the_same(rng) -> None:
    labels = np.array([0] * 12 + [1] * 3 + [2])
    logits = rng.standard_normal((16, 3))
    nats = -np.log(softmax(logits))[np.arange(16), labels]
    task = rows(labels, class_weights="balanced")
    found = task.loss(torch.from_numpy(logits), torch.from_numpy(labels))
    expected = np.mean([nats[labels == place].mean() for place in range(3)])
    assert found.item() == pytest.approx(expected)
    plain = rows(labels).loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert plain.item() == pytest.approx(nats.mean())


def test_other_tasks_leave_no_choice() -> None:
    inputs, values = np.zeros((4, 1, 1, 1), np.float32), np.arange(4, dtype=np.float32)[:, None]
    split = Split(inputs, values)
    data = Dataset("made up", ("y",), split, split, "regression")
    with pytest.raises(InputError, match=r"task: the task regression has one score.*roc_auc"):
        task_of(data, TaskConfig(metric="roc_auc"))


def test_areas_of_too_many_classes_are_refused_as_a_score_and_left_out_otherwise() -> None:
    labels, names = np.arange(101), tuple(map(str, range(101)))
    with pytest.raises(InputError, match=r"task.metric: .*at most 100 classes.*101"):
        rows(labels, names, metric="pr_auc")
    targets = torch.from_numpy(labels)
    assert "roc_auc" not in rows(labels, names).metrics([(torch.eye(101), targets)])
