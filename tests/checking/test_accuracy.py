"""Which output gives the classes of labelled samples, and the accuracy of one score each."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import odd_models
from helpers.small_models import saved

from hwnas.checking.accuracy import accuracy_of, score_output
from hwnas.checking.check import check_file
from hwnas.checking.inputs.samples import Samples
from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
from hwnas.tasks.proportions import wilson_interval

COUNT = 60
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, COUNT)
LOGITS = np.eye(3, dtype=np.float32)[LABELS]
EMBEDDING = RNG.standard_normal((COUNT, 8)).astype(np.float32)


def accuracy(labels, outputs, **options) -> float:
    samples = Samples(
        COUNT, lambda chosen: {n: array[chosen] for n, array in outputs.items()}, labels, **options
    )
    return accuracy_of(lambda feeds: feeds, samples, 20, "m.onnx")


@pytest.mark.parametrize(
    "outputs, expected",
    [
        ({"a": EMBEDDING, "b": LOGITS}, "b"),
        ({"a": LOGITS, "b": LABELS}, "b"),
        ({"a": EMBEDDING[:, :2], "b": EMBEDDING}, "b"),
        ({"a": EMBEDDING}, "a"),
        ({"a": EMBEDDING[:, :1], "b": EMBEDDING[:, :7]}, "b"),
        ({"a": (LABELS,), "b": LOGITS}, "b"),
    ],
)
def test_the_output_that_fits_the_labels_gives_the_classes(outputs, expected) -> None:
    assert score_output(outputs, COUNT, LABELS, "m.onnx") == expected


@pytest.mark.parametrize(
    "outputs, words",
    [
        ({"a": LOGITS, "b": LOGITS}, "several outputs.*a, b.*--score-output a"),
        ({"a": LABELS, "b": LABELS}, "several outputs"),
        ({"a": EMBEDDING, "b": EMBEDDING}, "several outputs"),
        ({"a": EMBEDDING[None]}, "no output gives a class"),
    ],
)
def test_an_output_that_cannot_be_told_is_asked_for(outputs, words) -> None:
    with pytest.raises(InputError, match=words):
        score_output(outputs, COUNT, LABELS, "m.onnx")


def test_the_named_output_is_scored() -> None:
    outputs = {"a": LOGITS, "b": np.roll(LOGITS, 1, axis=1)}
    assert accuracy(LABELS, outputs, score_output="a") == 1.0
    assert accuracy(LABELS, outputs, score_output="b") == 0.0
    with pytest.raises(InputError, match="no such output.*a, b.*got c"):
        accuracy(LABELS, outputs, score_output="c")


@pytest.mark.parametrize("shape", [(COUNT, 1), (COUNT,)])
def test_one_score_for_each_sample_is_compared_with_a_threshold(shape) -> None:
    labels = (LABELS > 0).astype(np.int64)
    probability = np.where(labels == 1, 0.7, 0.2).astype(np.float32).reshape(shape)
    assert accuracy(labels, {"y": probability}) == 1.0
    assert accuracy(labels, {"y": probability}, threshold=0.8) == np.mean(labels == 0)
    logit = 4 * probability - 2
    with pytest.raises(InputError, match="no probability.*--score-threshold 0"):
        accuracy(labels, {"y": logit})
    assert accuracy(labels, {"y": logit}, threshold=0.0) == 1.0
    with pytest.raises(InputError, match="labels 0 and 1.*got 3 labels"):
        accuracy(LABELS, {"y": probability})


@pytest.mark.parametrize(
    "labels, words",
    [
        (LABELS + 1, "labels 0 to 2, got 1 to 3"),
        (LABELS - 1, "got -1 to 1"),
        (LABELS.astype(str), "got the text"),
    ],
)
def test_labels_that_are_no_indices_of_the_scores_are_refused(labels, words) -> None:
    with pytest.raises(InputError, match=words):
        accuracy(labels, {"y": LOGITS})


def test_no_right_answer_has_an_interval_from_zero() -> None:
    assert wilson_interval(0.0, 50)[0] == 0.0
    assert wilson_interval(1.0, 50)[1] == 1.0


def test_a_model_and_its_reference_are_scored_by_the_same_output(tmp_path) -> None:
    model = odd_models.embedding_and_logits()
    path = saved(model, tmp_path / "model.onnx")
    for output in model.graph.output:
        model.graph.node.append(odd_models.node("Identity", output.name, f"other_{output.name}"))
        output.name = f"other_{output.name}"
    reference = saved(model, tmp_path / "reference.onnx")
    x = RNG.standard_normal((COUNT, 4)).astype(np.float32)
    stored = [odd_models.random_weights(4, 8), odd_models.random_weights(8, 3, seed=1)]
    np.savez(tmp_path / "data.npz", x=x, labels=(x @ stored[0] @ stored[1]).argmax(axis=1))
    document = check_file(
        inspect_model(path),
        CheckRequest(CheckConfig(measure_seconds=0.2)),
        data=tmp_path / "data.npz",
        reference=inspect_model(reference),
    )
    assert document["accuracy"] == {"reference": 1.0, "onnx": 1.0, "n": COUNT}
    assert document["score_output"] == "logits"
    assert document["not_asked"] == ["latency not limited"]
