"""Loss and metric of one's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwnas.data import dataset_of
from hwnas.errors import InputError
from hwnas.tasks import task_of
from hwnas.tasks.own import JudgedTask, OwnTask, score_of

NUMBERS = st.floats(-1e9, 1e9)


@pytest.fixture(scope="module")
def base():
    inputs = torch.arange(60.0).reshape(12, 5)
    return task_of(dataset_of((inputs, torch.arange(12) % 3), kind="table"))


@given(NUMBERS, NUMBERS)
def test_scores_are_shares_in_the_order_of_the_numbers(a: float, b: float) -> None:
    for direction, sign in (("maximize", 1), ("minimize", -1)):
        first, second = score_of(a, direction), score_of(b, direction)
        assert 0 <= first <= 1
        if sign * a > sign * b:
            assert first >= second


def test_a_metric_is_computed_of_all_samples_at_once(base) -> None:
    seen = []

    def share(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        seen.append(len(outputs))
        return float((outputs.argmax(1) == targets).double().mean())

    task = OwnTask(base, (3,), metric=share)
    batches = [(torch.eye(3)[:2], torch.tensor([0, 2])), (torch.eye(3), torch.arange(3))]
    assert task.metrics(batches) == {"share": 0.8}
    assert task.metric == "share" and task.score(batches) == 0.8
    assert seen == [5, 5]
    assert task.constant_score(base.dataset.test.targets) is None


def test_what_is_not_replaced_is_the_usual(base) -> None:
    task = OwnTask(base, (3,), loss=lambda outputs, targets: outputs.sum())
    outputs, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert task.loss(outputs, targets, 0.1) == outputs.sum()
    assert task.metrics([(outputs, targets)]) == base.metrics([(outputs, targets)])
    assert task.metric == "accuracy" and task.output_dimensions == 2
    only_metric = OwnTask(base, (3,), metric=lambda outputs, targets: 1.0)
    assert only_metric.loss(outputs, targets, 0.1) == base.loss(outputs, targets, 0.1)


def test_a_task_that_only_a_function_judges_has_no_loss(base) -> None:
    task = JudgedTask(base.dataset, (3,))
    for ask in (task.meter, lambda: task.loss(torch.zeros(1), torch.zeros(1))):
        with pytest.raises(InputError, match="without data"):
            ask()
    assert task.metrics_of(0.25) == {"metric": "score", "score": 0.25, "evaluate": 0.25}
    assert task.metrics_of(300.0)["score"] == score_of(300.0, "maximize")
