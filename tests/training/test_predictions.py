"""The stored predictions of the test samples, and the samples that are stored to look at."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch

from hwnas.data import Dataset, Split
from hwnas.training.predictions import MAX_PIXELS, SAMPLES, PredictionRecorder

CLASSES = ("a", "b", "c")


def recorded(dataset: Dataset, predicted: np.ndarray, certainty: np.ndarray) -> dict:
    """The arrays after logits that predict these classes passed by in batches of 7."""
    logits = torch.zeros(len(predicted), len(dataset.classes))
    logits[torch.arange(len(predicted)), torch.from_numpy(predicted)] = torch.from_numpy(certainty)
    targets = torch.from_numpy(dataset.test.targets)
    batches = list(zip(logits.split(7), targets.split(7), strict=True))
    recorder = PredictionRecorder()
    for found, given in zip(recorder.record(iter(batches)), batches, strict=True):
        assert all(itertools.starmap(torch.equal, zip(found, given, strict=True)))
    with np.load(io.BytesIO(recorder.to_npz(dataset)), allow_pickle=False) as arrays:
        return dict(arrays)


def image_dataset(channels: int = 1, side: int = 6, samples: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (samples, channels, side, side // 2), dtype=np.uint8)
    split = Split(images, np.arange(samples) % 3)
    return Dataset("images", CLASSES, split, split)


def test_predictions_are_stored_in_the_order_of_the_samples() -> None:
    dataset = image_dataset()
    predicted = (dataset.test.targets + (np.arange(60) % 4 == 0)) % 3
    found = recorded(dataset, predicted, np.linspace(1, 5, 60, dtype=np.float32))
    assert found["classes"].tolist() == list(CLASSES)
    assert np.array_equal(found["targets"], dataset.test.targets)
    assert np.array_equal(found["predicted"], predicted)
    assert np.allclose(found["confidence"], 1 / (1 + 2 * np.exp(-np.linspace(1, 5, 60))))


def test_samples_are_correct_ones_of_all_classes_and_the_most_confident_mistakes() -> None:
    dataset = image_dataset()
    predicted = (dataset.test.targets + (np.arange(60) >= 40)) % 3
    found = recorded(dataset, predicted, np.linspace(1, 5, 60, dtype=np.float32))
    right, wrong = np.split(found["samples"], [SAMPLES])
    assert right.tolist() == list(range(12))
    assert wrong.tolist() == list(range(59, 47, -1))
    assert np.array_equal(found["sample_images"], dataset.test.inputs[found["samples"]])


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_large_images_are_stored_small(channels: int, shown: int) -> None:
    dataset = image_dataset(channels, side=300, samples=6)
    found = recorded(dataset, dataset.test.targets, np.ones(6, np.float32))
    assert found["sample_images"].shape == (6, shown, MAX_PIXELS, MAX_PIXELS // 2)
    assert found["sample_images"].dtype == np.uint8


def test_texts_are_stored_as_words_without_padding() -> None:
    split = Split(np.array([[2, 3, 0], [3, 1, 2]]), np.array([0, 1]))
    vocabulary = ("<padding>", "<unknown>", "good", "bad")
    dataset = Dataset("texts", ("no", "yes"), split, split, "text-classification", vocabulary)
    found = recorded(dataset, np.array([0, 0]), np.ones(2, np.float32))
    assert found["sample_texts"].tolist() == ["good bad", "bad <unknown> good"]
    assert "sample_images" not in found


def test_features_are_not_stored() -> None:
    features = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    split = Split(features, np.arange(4) % 2)
    found = recorded(
        Dataset("sounds", ("no", "yes"), split, split, "audio-keywords"),
        np.zeros(4, np.int64),
        np.ones(4, np.float32),
    )
    assert set(found) == {"classes", "targets", "predicted", "confidence", "samples"}


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_images_of_other_types_are_stored_with_their_contrast(dtype: type) -> None:
    values = np.random.default_rng(0).normal(1000, 20, (4, 5, 8, 8)).astype(dtype)
    split = Split(values, np.arange(4) % 2)
    dataset = Dataset("deep", ("no", "yes"), split, split)
    found = recorded(dataset, np.zeros(4, np.int64), np.ones(4, np.float32))
    shown = found["sample_images"]
    assert (shown.shape, shown.dtype) == ((4, 3, 8, 8), np.uint8)
    expected = (values[found["samples"], :3] - 1000.0) / 20 * 255 / 6 + 127.5
    assert np.abs(shown - np.clip(expected, 0, 255)).mean() < 5
