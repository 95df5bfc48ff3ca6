"""The chapter of a report on the test samples: metrics, confusions, samples right and wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hwnas.errors import InputError
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.reporting.confusion_chart import MAX_CLASSES, confusion_chart
from hwnas.reporting.figures import first_rows
from hwnas.reporting.formatting import count, percent
from hwnas.reporting.html import Html, columns, figure, gallery, picture, table, text

MAX_SIDE = 256
"""Largest height and width of a stored image."""
MAX_SAMPLES = 24
"""Samples that a page shows at most."""
CONFUSIONS = 10
"""Pairs of confused classes in the table."""


@dataclass(frozen=True)
class Predictions:
    """The contents of `predictions.npz`; the module that writes the file describes its arrays.

    Attributes:
        classes: names of the classes.
        targets: class of each test sample, (N,).
        predicted: predicted class, (N,).
        confidence: predicted probability of that class, (N,).
        samples: indices of the stored samples, (M,).
        images: (M, C, H, W) uint8 with one or three channels; None if the samples are no images.
        texts: text of each stored sample; empty if the samples are no texts.
    """

    classes: tuple[str, ...]
    targets: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    samples: np.ndarray
    images: np.ndarray | None
    texts: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Predictions | None:
        """Read the file; None if there is none, as in runs of other tasks and of old versions.

        Raises:
            InputError: when the file is damaged.
        """
        if not path.is_file():
            return None
        arrays = read_npz_arrays(path)
        missing = {"classes", "targets", "predicted", "confidence", "samples"} - arrays.keys()
        if missing:
            raise InputError("missing array", where=str(path), expected=min(missing))
        found = cls(
            classes=tuple(map(str, arrays["classes"].ravel().tolist())),
            targets=arrays["targets"],
            predicted=arrays["predicted"],
            confidence=arrays["confidence"],
            samples=arrays["samples"],
            images=arrays.get("sample_images"),
            texts=tuple(map(str, arrays.get("sample_texts", np.array([])).ravel().tolist())),
        )
        if not found._is_consistent():
            raise InputError("the arrays do not belong together", where=str(path))
        return found

    def _is_consistent(self) -> bool:
        """Whether shapes and types fit each other and all indices are in range."""
        size, classes, stored = len(self.classes), (self.targets, self.predicted), len(self.samples)
        indices = (*classes, self.samples)
        if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in indices):
            return False
        if not 0 < len(self.targets) == len(self.predicted) == len(self.confidence):
            return False
        ends = ((self.targets, size), (self.predicted, size), (self.samples, len(self.targets)))
        if any(len(a) and not 0 <= int(a.min()) <= int(a.max()) < end for a, end in ends):
            return False
        if self.confidence.ndim != 1 or self.confidence.dtype.kind != "f":
            return False
        if stored > MAX_SAMPLES or (self.texts and len(self.texts) != stored):
            return False
        return self.images is None or (
            self.images.dtype == np.uint8
            and self.images.ndim == 4
            and len(self.images) == stored
            and self.images.shape[1] in (1, 3)
            and 0 < min(self.images.shape[2:]) <= max(self.images.shape[2:]) <= MAX_SIDE
        )

    def confusion(self) -> np.ndarray:
        """The number of samples by class (rows) and predicted class (columns), (K, K)."""
        size = len(self.classes)
        pairs = self.targets.astype(np.int64) * size + self.predicted.astype(np.int64)
        return np.bincount(pairs, minlength=size * size).reshape(size, size)

    def mistakes(self) -> list[tuple[int, int, int]]:
        """Class, wrongly predicted class and number of samples, the most frequent pair first."""
        wrong = self.targets != self.predicted
        pairs = np.stack([self.targets[wrong], self.predicted[wrong]], axis=1)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(found[i][0]), int(found[i][1]), int(counts[i])) for i in order]


def confusion_matrix(predictions: Predictions) -> list[Html]:
    """The matrix as a drawing; nothing if there are too many classes for one."""
    if len(predictions.classes) > MAX_CLASSES:
        return []
    title = "Confusion matrix"
    caption = (
        "Rows: the class of the samples; columns: the predicted class. Numbers and strength of "
        "colour: percentages of the row. Correct predictions are on the diagonal."
    )
    chart = confusion_chart(title, predictions.classes, predictions.confusion())
    return [figure(title, caption, chart)]


def frequent_mistakes(predictions: Predictions) -> list[Html]:
    """The pairs of classes that are confused most often; nothing without a mistake."""
    rows = [
        [
            text(predictions.classes[target]),
            text(predictions.classes[guess]),
            text(count(found)),
            text(percent(found / int((predictions.targets == target).sum()), 1)),
        ]
        for target, guess, found in predictions.mistakes()[:CONFUSIONS]
    ]
    if not rows:
        return []
    header = ("class", "taken for", "samples", "share of class")
    title = "Most frequent mistakes"
    return [figure(title, "Classes that are confused.", first_rows(title, header, rows))]


def sample_parts(predictions: Predictions) -> list[Html]:
    """Samples that are predicted correctly and samples that are not; nothing without any stored."""
    is_right = predictions.targets == predictions.predicted
    groups = (
        (
            "Predicted correctly",
            "One sample of each class in turn, with the predicted probability of the class.",
            [p for p, sample in enumerate(predictions.samples) if is_right[sample]],
        ),
        (
            "Predicted wrongly",
            "The mistakes with the highest predicted probability: the class, and after an arrow "
            "the prediction.",
            [p for p, sample in enumerate(predictions.samples) if not is_right[sample]],
        ),
    )
    if predictions.images is not None:
        return [
            figure(title, caption, _pictures(predictions, places), wide=True)
            for title, caption, places in groups
            if places
        ]
    tables = [
        figure(title, caption, _texts(title, predictions, places))
        for title, caption, places in groups
        if places and predictions.texts
    ]
    return [columns(tables)] if tables else []


def _pictures(predictions: Predictions, places: Sequence[int]) -> Html:
    """The images with their classes as captions."""
    assert predictions.images is not None
    items = []
    for place in places:
        image = predictions.images[place]
        words = outcome(predictions, place)
        _, height, width = image.shape
        items.append((picture(png(image), words, width, height), words))
    return gallery(items)


def _texts(title: str, predictions: Predictions, places: Sequence[int]) -> Html:
    """The texts with their classes as a table."""
    rows = [[text(predictions.texts[p]), text(outcome(predictions, p))] for p in places]
    return table(title, ("text", "outcome"), rows)


def outcome(predictions: Predictions, place: int) -> str:
    """Class, prediction if it differs, and its probability: `Shirt \u2192 Coat, 88 %`."""
    sample = predictions.samples[place]
    target, guess = predictions.targets[sample], predictions.predicted[sample]
    name = predictions.classes[target]
    if target != guess:
        name += f" \u2192 {predictions.classes[guess]}"
    return f"{name}, {percent(round(float(predictions.confidence[sample]), 2))}"


def png(image: np.ndarray) -> bytes:
    """An image (C, H, W) with one or three channels as a PNG file."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return file.getvalue()
