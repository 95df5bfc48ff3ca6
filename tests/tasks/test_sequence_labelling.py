"""A class for each position: loss and metrics against plain definitions, and predictions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_files import refusal
from torch import nn

from hwnas import dataset_of
from hwnas.data import Dataset
from hwnas.deploy.export import export_network, set_metadata
from hwnas.inference.predictor import Predictor
from hwnas.tasks import task_of

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 7, (20, 5))
LABELS = RNG.integers(-1, 3, (20, 5))
NAMES = ("other", "person", "place")


def data(**options: Any) -> Dataset:
    pair = WORDS, LABELS
    given = {"kind": "tokens", "classes": NAMES, "vocabulary": list("abcdefg")} | options
    return dataset_of(pair, pair, **given)


def test_the_loss_is_the_mean_over_labelled_positions() -> None:
    logits = RNG.normal(size=(20, 3, 5))
    expected = [
        np.log(np.exp(logits[n, :, t]).sum()) - logits[n, LABELS[n, t], t]
        for n, t in zip(*np.nonzero(LABELS >= 0), strict=True)
    ]
    found = task_of(data()).loss(torch.from_numpy(logits), torch.from_numpy(LABELS))
    assert float(found) == pytest.approx(np.mean(expected))


def test_the_metrics_count_labelled_positions_alone() -> None:
    task, logits = task_of(data()), torch.from_numpy(RNG.normal(size=(20, 3, 5)))
    predicted, known = logits.argmax(dim=1).numpy(), LABELS >= 0
    batches = [
        (logits[:8], torch.from_numpy(LABELS[:8])),
        (logits[8:], torch.from_numpy(LABELS[8:])),
    ]
    found = task.metrics(batches)
    assert found["label_accuracy"] == pytest.approx((predicted == LABELS)[known].mean())
    for index, one in enumerate(found["per_class"]):
        of_class = np.equal(LABELS, index)
        right = ((predicted == index) & of_class).sum()
        assert one["n"] == of_class.sum()
        assert one["recall"] == pytest.approx(right / one["n"])
        assert one["precision"] == pytest.approx(right / ((predicted == index) & known).sum())
    counts = np.bincount(LABELS[known])
    assert task.constant_score(LABELS) == pytest.approx(counts.max() / known.sum())


def test_a_network_needs_a_vector_for_each_label() -> None:
    task = task_of(data())
    assert task.suits((3, 5)) and not any(map(task.suits, [(3,), (3, 4), (2, 5), (3, 1, 5)]))
    assert task.outputs_in_words == "3 values for each of 5 positions"


def test_each_position_of_raw_tokens_is_named() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 5), nn.Conv1d(5, 3, 1))
    task, dataset = task_of(data()), data()
    model = export_network(network.eval(), (5,), (task.input_name, task.output_name))
    stated = {key: json.dumps(value) for key, value in task.properties().items()}
    set_metadata(model, {"task": task.name, **stated})
    predictor = Predictor(model.SerializeToString())
    with torch.no_grad():
        logits = network(dataset.normalise(WORDS))
    assert predictor.predict(WORDS).tolist() == np.array(NAMES)[logits.argmax(dim=1)].tolist()
    probabilities = logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(predictor.predict_proba(WORDS), probabilities, atol=1e-5)
    assert "does not say how texts become tokens" in refusal(predictor.predict, ["a b c d e"])


def test_labels_of_signals_and_tokens_and_what_is_refused() -> None:
    signals = RNG.normal(size=(20, 2, 9))
    of_signals = dataset_of((signals, LABELS), (signals, LABELS))
    assert of_signals.task == "sequence-labelling" and of_signals.classes == ("0", "1", "2")
    assert task_of(of_signals).input_name == "signals"
    classified = dataset_of((WORDS, WORDS[:, 0]), kind="tokens")
    assert classified.task == "text-classification" and len(classified.vocabulary) == 7
    one_hot = np.eye(3, dtype=int)[WORDS[:, 0] % 3]
    assert "one-hot" in refusal(dataset_of, (signals, one_hot))
    assert "unsupported targets of samples of kind table" in refusal(dataset_of, (WORDS, LABELS))
    assert "0..2" in refusal(data, classes=NAMES[:2])
    assert "label out of range" in refusal(data, vocabulary=["a", "b"])
    pair = WORDS.astype(float), LABELS
    assert "not tokens" in refusal(dataset_of, pair, kind="tokens")
