"""The chapter of a report on the data: training samples, and what augmentation makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import InputError
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.reporting.formatting import sentence_case
from hwnas.reporting.html import (
    Html,
    Section,
    explained,
    figure,
    gallery,
    paragraph,
    picture,
    section,
    table,
    text,
)
from hwnas.reporting.predictions import MAX_SAMPLES, MAX_SIDE, png

MOST_PARTS = 32
"""Parts of an augmentation that a page shows at most."""
ALL = (
    "Each group shows the same training samples: first as they are, then changed by one part of "
    "the augmentation alone, and at last by all parts together, as the network sees them in one "
    "epoch. Every epoch draws anew. Test samples are never changed."
)


@dataclass(frozen=True)
class TrainingSamples:
    """The contents of `training_samples.npz`; the module that writes the file describes its arrays.

    Attributes:
        data: the dataset in words.
        parts: what each group of samples shows, (P,).
        labels: what each sample is to be recognised as, (P, M).
        images: (P, M, C, H, W) uint8 with one or three channels; None if the samples are texts.
        texts: (P, M); None if the samples are images.
    """

    data: str
    parts: tuple[str, ...]
    labels: np.ndarray
    images: np.ndarray | None
    texts: np.ndarray | None

    @classmethod
    def read(cls, path: Path) -> TrainingSamples | None:
        """Read the file; None if there is none, as before training and in runs of old versions.

        Raises:
            InputError: when the file is damaged.
        """
        if not path.is_file():
            return None
        arrays = read_npz_arrays(path)
        missing = {"data", "parts", "labels"} - arrays.keys()
        if missing:
            raise InputError("missing array", where=str(path), expected=min(missing))
        found = cls(
            data=str(arrays["data"].ravel()[0]) if arrays["data"].size else "",
            parts=tuple(map(str, arrays["parts"].ravel().tolist())),
            labels=arrays["labels"],
            images=arrays.get("images"),
            texts=arrays.get("texts"),
        )
        if not found._is_consistent():
            raise InputError("the arrays do not belong together", where=str(path))
        return found

    def _is_consistent(self) -> bool:
        """Whether shapes and types fit each other."""
        shape = self.labels.shape
        if len(shape) != 2 or shape[0] != len(self.parts) or self.labels.dtype.kind != "U":
            return False
        if not 0 < shape[0] <= MOST_PARTS or not 0 < shape[1] <= MAX_SAMPLES:
            return False
        if self.images is None:
            return self.texts is not None and self.texts.shape == shape
        return (
            self.images.dtype == np.uint8
            and self.images.ndim == 5
            and self.images.shape[:2] == shape
            and self.images.shape[2] in (1, 3)
            and 0 < min(self.images.shape[3:]) <= max(self.images.shape[3:]) <= MAX_SIDE
        )


def data_section(samples: TrainingSamples | None) -> list[Section]:
    """The dataset in words and its samples; nothing before training."""
    if samples is None:
        return []
    groups = [_group(samples, place) for place in range(len(samples.parts))]
    explanation = [explained(ALL)] if len(samples.parts) > 1 else []
    return [section("Data", paragraph(samples.data), *groups, *explanation)]


def _group(samples: TrainingSamples, place: int) -> Html:
    """The samples that one part of the augmentation changed."""
    title = f"Training samples: {sentence_case(samples.parts[place])}"
    labels = [str(label) for label in samples.labels[place].tolist()]
    if samples.images is not None:
        _, height, width = samples.images.shape[2:]
        shown = zip(samples.images[place], labels, strict=True)
        items = [(picture(png(i), w or samples.parts[place], width, height), w) for i, w in shown]
        return figure(title, "With what they are to be recognised as.", gallery(items), wide=True)
    assert samples.texts is not None
    shown_texts = zip(samples.texts[place].tolist(), labels, strict=True)
    rows = [[text(words), text(label)] for words, label in shown_texts]
    return figure(title, "", table(title, ("sample", "to be recognised as"), rows))
