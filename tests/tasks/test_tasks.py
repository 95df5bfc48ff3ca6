"""Losses and metrics of the tasks against references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hwnas.data import Dataset, Split
from hwnas.data.formats import VOID
from hwnas.errors import InputError
from hwnas.tasks import Task, task_of

CLASSES = ("a", "b", "c", "d")


def task(name: str, targets: np.ndarray, classes: tuple[str, ...] = CLASSES) -> Task:
    """Return a task on a dataset with arbitrary inputs."""
    inputs = np.arange(2 * len(targets), dtype=np.uint8).reshape(-1, 1, 1, 2)
    split = Split(inputs, targets)
    return task_of(Dataset("made up", classes, split, split, name))


def one_hot(classes: list[int]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), len(CLASSES)).float()


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(deadline=None)
@given(PAIRS)
def test_classification_metrics_match_counting(pairs) -> None:
    labels, predictions = (list(column) for column in zip(*pairs, strict=True))
    judge = task("image-classification", np.array(labels))
    # Split into two batches, to test accumulation.
    halves = [slice(0, len(labels) // 2), slice(len(labels) // 2, None)]
    batches = [(one_hot(predictions[h]), torch.tensor(labels[h])) for h in halves if labels[h]]
    found = judge.metrics(batches)
    assert found["accuracy"] == np.mean(np.equal(labels, predictions))
    for index, row in enumerate(found["per_class"]):
        hits = sum(t == p == index for t, p in pairs)
        predicted, actual = predictions.count(index), labels.count(index)
        assert row["precision"] == pytest.approx(hits / predicted if predicted else 0)
        assert row["recall"] == pytest.approx(hits / actual if actual else 0)
        both = predicted + actual
        assert row["f1"] == pytest.approx(2 * hits / both if both else 0)
        assert row["n"] == actual
    assert found["f1"] == pytest.approx(np.mean([row["f1"] for row in found["per_class"]]))
    assert judge.score(batches) == found["accuracy"]


def test_accuracy_of_nine_in_ten_is_not_below_0_9() -> None:
    """It would be in float32."""
    judge = task("image-classification", np.arange(10) % 4)
    labels = [i % 4 for i in range(10)]
    outputs = one_hot([labels[0] + 1, *labels[1:]])
    assert judge.score([(outputs, torch.tensor(labels))]) >= 0.9


@settings(deadline=None)
@given(PAIRS)
def test_segmentation_metrics_match_scikit_learn(pairs) -> None:
    labels, predictions = (list(column) for column in zip(*pairs, strict=True))
    judge = task("segmentation", np.array(labels).reshape(1, 1, -1))
    logits = one_hot(predictions).T[None, :, None]
    found = judge.metrics([(logits, torch.tensor(labels)[None, None])])
    seen = sorted(set(labels) | set(predictions))
    expected = sklearn_metrics.jaccard_score(labels, predictions, labels=seen, average=None)
    ious = [row["iou"] for row in found["per_class"]]
    assert [ious[index] for index in seen] == pytest.approx(expected.tolist())
    assert found["mean_iou"] == pytest.approx(expected.mean())
    assert found["pixel_accuracy"] == pytest.approx(np.mean(np.equal(labels, predictions)))


def test_segmentation_loss_is_the_mean_over_pixels(rng) -> None:
    targets = rng.integers(0, 4, (2, 3, 5))
    logits = rng.standard_normal((2, 4, 3, 5))
    exponentials = np.exp(logits)
    shares = exponentials / exponentials.sum(axis=1, keepdims=True)
    chances = np.take_along_axis(shares, targets[:, None], axis=1)
    found = task("segmentation", targets).loss(torch.from_numpy(logits), torch.from_numpy(targets))
    assert found.item() == pytest.approx(-np.log(chances).mean())


@settings(deadline=None)
@given(PAIRS, st.lists(st.booleans(), min_size=60, max_size=60))
def test_void_pixels_are_ignored_by_the_metrics_of_segmentation(pairs, voids) -> None:
    labels, predictions = (np.array(column) for column in zip(*pairs, strict=True))
    is_void = np.array(voids[: len(labels)])
    targets = np.where(is_void, VOID, labels)[None, None]
    logits = one_hot(predictions.tolist()).T[None, :, None]
    if is_void.all():
        meter = task("segmentation", np.zeros((1, 1, 1), np.int64)).meter()
        meter.update(logits, torch.tensor(targets))
        assert meter.compute()["mean_iou"] == 0
        return
    judge = task("segmentation", targets)
    found = judge.metrics([(logits, torch.tensor(targets))])
    kept = (labels[~is_void][None, None], predictions[~is_void].tolist())
    expected = task("segmentation", kept[0]).metrics(
        [(one_hot(kept[1]).T[None, :, None], torch.tensor(kept[0]))]
    )
    assert found == expected
    assert judge.constant_score(targets) == judge.constant_score(kept[0])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_void_pixels_are_ignored_by_the_loss_of_segmentation(rng, label_smoothing: float) -> None:
    targets = rng.integers(0, 4, (2, 3, 5))
    logits = torch.from_numpy(rng.standard_normal((2, 4, 3, 5))).requires_grad_()
    is_void = rng.random((2, 3, 5)) < 0.5
    judge = task("segmentation", targets)
    void = torch.from_numpy(np.where(is_void, VOID, targets))
    loss = judge.loss(logits, void, label_smoothing)
    loss.backward()
    kept = logits.detach().movedim(1, -1)[torch.from_numpy(~is_void)]
    expected = torch.nn.functional.cross_entropy(
        kept, torch.from_numpy(targets[~is_void]), label_smoothing=label_smoothing
    )
    assert loss.item() == pytest.approx(expected.item())
    assert not logits.grad.movedim(1, -1)[torch.from_numpy(is_void)].any()


def test_a_batch_without_labelled_pixels_has_no_loss_and_no_gradient() -> None:
    logits = torch.ones(1, 4, 2, 2, requires_grad=True)
    judge = task("segmentation", np.zeros((1, 2, 2), np.int64))
    loss = judge.loss(logits, torch.full((1, 2, 2), VOID))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_void_is_no_class_of_other_tasks() -> None:
    with pytest.raises(InputError, match="label out of range"):
        task("language-modelling", np.full((3, 1, 5), VOID))


def test_language_metrics_match_the_definition_of_perplexity(rng) -> None:
    targets = rng.integers(0, 4, (6, 1, 5))
    logits = rng.standard_normal((6, 4, 1, 5))
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    nats = -np.take_along_axis(logs, targets[:, None], axis=1).mean()
    judge = task("language-modelling", targets)
    tensors = [torch.from_numpy(logits).float(), torch.from_numpy(targets)]
    found = judge.metrics([tuple(t[:4] for t in tensors), tuple(t[4:] for t in tensors)])
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert found["inverse_perplexity"] == pytest.approx(math.exp(-nats), rel=1e-5)
    assert found["token_accuracy"] == pytest.approx((logits.argmax(1) == targets).mean())
    assert judge.loss(*tensors).item() == pytest.approx(nats, rel=1e-5)


def test_classification_with_a_single_class_is_refused() -> None:
    with pytest.raises(InputError, match="needs more than one class"):
        task("image-classification", np.zeros(3, np.int64), ("only",))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_the_constant_score_is_that_of_the_best_constant_answer(classes) -> None:
    labels = np.array(classes)
    for name, targets in (
        ("image-classification", labels),
        ("segmentation", labels[:, None, None]),
    ):
        judge, scores = task(name, targets), []
        for answer in range(len(CLASSES)):
            logits = one_hot([answer] * targets.size).reshape(len(targets), -1, *targets.shape[1:])
            scores.append(judge.score([(logits, torch.from_numpy(targets))]))
        assert judge.constant_score(targets) == pytest.approx(max(scores)), name


def test_the_mean_of_the_targets_explains_nothing(rng) -> None:
    targets = rng.standard_normal((20, 1)).astype(np.float32)
    judge = task("regression", targets)
    found = judge.score([(torch.zeros(20, 1), torch.from_numpy(targets))])
    assert judge.constant_score(targets) == pytest.approx(found, abs=1e-6)


def test_frequencies_of_tokens_are_the_constant_answer_of_a_language_model(rng) -> None:
    """Equal in the limit: one is added to each count of the training data."""
    targets = rng.choice(4, (50, 1, 100), p=[0.5, 0.25, 0.15, 0.1])
    judge = task("language-modelling", targets)
    logs = np.log(np.bincount(targets.ravel()) / targets.size)
    logits = torch.from_numpy(logs).float()[None, :, None, None].expand(50, -1, 1, 100)
    found = judge.score([(logits, torch.from_numpy(targets))])
    assert judge.constant_score(targets) == pytest.approx(found, rel=1e-3)
