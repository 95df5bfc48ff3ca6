"""Images that a small network learns in seconds."""

from __future__ import annotations

import numpy as np

from hwnas.data import Dataset, Split


def bars() -> Dataset:
    """Return images of three classes, which differ in the third of the image that is bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 60, (60, 1, 9, 7), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * label : 3 * label + 3] += 180
    split = Split(images, labels.astype(np.int64))
    return Dataset("bars", ("top", "middle", "bottom"), split, split)
