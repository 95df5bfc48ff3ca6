"""Predicted classes of the test samples, stored with a few samples to look at.

The file `predictions.npz` has the arrays

    classes         (K,) text: names of the classes
    targets         (N,) int64: class of each test sample
    predicted       (N,) int64: predicted class
    confidence      (N,) float32: predicted probability of that class
    samples         (M,) int64: indices of the stored samples
    sample_images   (M, C, H, W) uint8 with one or three channels, for images only
    sample_texts    (M,) text, for texts only

and holds no pickled objects.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch import Tensor

from hwnas.data import Dataset, Normalisation
from hwnas.data.formats import IMAGE_CLASSIFICATION

SAMPLES = 12
"""Stored samples that are predicted correctly, and as many that are not."""
MAX_PIXELS = 64
"""Largest height and width of a stored image."""
MAX_LETTERS = 240
"""Largest length of a stored text."""


@dataclass
class PredictionRecorder:
    """Collects predicted classes while batches of logits (N, K) pass by."""

    targets: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)
    confidence: list[np.ndarray] = field(default_factory=list)

    def record(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of logits and targets unchanged and keep what they predict."""
        for outputs, targets in batches:
            confidence, predicted = outputs.float().softmax(dim=1).max(dim=1)
            self.targets.append(targets.cpu().numpy())
            self.predicted.append(predicted.cpu().numpy())
            self.confidence.append(confidence.cpu().numpy())
            yield outputs, targets

    def to_npz(self, dataset: Dataset) -> bytes:
        """Return the content of `predictions.npz`.

        Args:
            dataset: its test samples, in order, are those of the recorded batches.
        """
        targets, predicted = np.concatenate(self.targets), np.concatenate(self.predicted)
        confidence = np.concatenate(self.confidence).astype(np.float32)
        samples = _selected(targets, predicted, confidence)
        arrays = {
            "classes": np.array(dataset.classes, dtype=np.str_),
            "targets": targets,
            "predicted": predicted,
            "confidence": confidence,
            "samples": samples,
        }
        inputs = dataset.test.inputs[samples]
        if dataset.vocabulary:
            words = ([dataset.vocabulary[token] for token in row if token] for row in inputs)
            arrays["sample_texts"] = np.array(
                [" ".join(text)[:MAX_LETTERS] for text in words], dtype=np.str_
            )
        elif dataset.inputs:
            pass  # several inputs are not shown
        elif inputs.dtype != np.float32 or dataset.task == IMAGE_CLASSIFICATION:
            shown = _as_bytes(inputs, dataset.normalisation)
            arrays["sample_images"] = np.stack([small_image(image) for image in shown])
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()


def _selected(targets: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Indices (M,) of correct samples, classes in turn, then of the most confident mistakes."""
    right = np.flatnonzero(predicted == targets)
    wrong = np.flatnonzero(predicted != targets)
    # The n-th sample of each class comes before the (n+1)-th of any class.
    turn = np.zeros(len(right), dtype=np.int64)
    for target in np.unique(targets[right]):
        of_class = targets[right] == target
        turn[of_class] = np.arange(of_class.sum())
    right = right[np.lexsort((targets[right], turn))]
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return np.concatenate([right[:SAMPLES], wrong[:SAMPLES]])


def _as_bytes(images: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Images (M, C, H, W) with values 0 to 255, to be looked at.

    Those that are not uint8 show the range within three standard deviations of the training images,
    since few sensors use the whole range of their numbers.
    """
    if images.dtype == np.uint8:
        return images
    mean, std = (moment.numpy() for moment in normalisation.moments())
    deviations = (images.astype(np.float32) - mean) / std
    scaled: np.ndarray = np.rint(np.clip((deviations + 3) / 6, 0, 1) * 255).astype(np.uint8)
    return scaled


def small_image(image: np.ndarray) -> np.ndarray:
    """An image (C, H, W) with one or three channels and sides of at most `MAX_PIXELS`."""
    channels, height, width = image.shape
    shown = image[: 3 if channels >= 3 else 1]
    scale = min(1.0, MAX_PIXELS / max(height, width))
    if scale == 1.0:
        return shown
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in shown
    ]
    return np.stack(resized)
