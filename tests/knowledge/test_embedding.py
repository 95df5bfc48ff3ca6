"""The embedding of datasets of every kind, and how similar they come out."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.data import Dataset, Split, load_dataset
from hwnas.knowledge.embedding import LENGTH, embed, similarity


def images(rng: np.random.Generator, *, stripes: bool, classes: int = 2) -> Dataset:
    """Noise, or stripes whose direction is the class."""
    targets = np.arange(120) % classes
    inputs = rng.integers(0, 60, size=(120, 3, 16, 16))
    if stripes:
        for image, target in zip(inputs, targets, strict=True):
            image[:, :: 2 if target else 1, :: 1 if target else 2] += 150
    split = Split(inputs.astype(np.uint8), targets)
    return Dataset("made", tuple("abcdefgh"[:classes]), split, split.take(np.arange(10)))


@pytest.mark.parametrize(
    "name", ["fashion-mnist-slice", "generated-text", "generated-ratings", "generated-detection"]
)
def test_every_kind_of_data_has_a_finite_embedding_that_is_always_the_same(name: str) -> None:
    dataset = load_dataset(name)
    found = embed(dataset)
    assert len(found) == LENGTH
    assert np.isfinite(found).all()
    assert found == embed(dataset)
    assert similarity(found, found) == 1.0


def test_equal_kinds_of_images_are_more_similar_than_others(rng) -> None:
    first, second = (embed(images(rng, stripes=True)) for _ in range(2))
    other = embed(images(rng, stripes=False))
    assert similarity(first, second) > 0.9
    assert similarity(first, other) < similarity(first, second) - 0.1
    assert similarity(first, second, same_task=False) < similarity(first, second)
    assert similarity(first, other[:-1]) == 0


def test_the_shares_of_the_classes_are_those_of_analysis_of_variance(rng) -> None:
    """Features that differ by class have a share near 1, and noise has one near 0."""
    parted, noise = (np.array(embed(images(rng, stripes=s))[-16:]) for s in (True, False))
    assert parted.max() > 0.9
    assert noise.max() < 0.2
