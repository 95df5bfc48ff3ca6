"""Datasets and loaders of PyTorch as data of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_files import refusal
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from hwnas import dataset_of

IMAGES = torch.randn(12, 6, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


class Items(TorchDataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(IMAGES, LABELS.tolist(), strict=True)


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS),
        TensorDataset(IMAGES, LABELS),
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5),
        Items([(image.numpy(), int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]),
        Stream(),
        DataLoader(Stream(), batch_size=4),
    ],
)
def test_all_sources_give_the_same_samples(given: Any) -> None:
    data = dataset_of(given, given, channels="first")
    assert np.array_equal(data.train.inputs, IMAGES.numpy())
    assert data.train.targets.tolist() == LABELS.tolist()
    assert data.task == "image-classification"


def test_pytorch_has_its_channels_first() -> None:
    assert dataset_of(TensorDataset(IMAGES, LABELS)).input_shape == (6, 16, 16)
    signals = TensorDataset(torch.randn(12, 9, 4), LABELS)
    assert dataset_of(signals).input_shape == (9, 1, 4)


def test_pictures_and_texts_are_read() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), np.uint8)
    items = [(Image.fromarray(p), "ab"[i % 2]) for i, p in enumerate(pixels)]
    data = dataset_of(Items(items), Items(items))
    assert np.array_equal(data.train.inputs, np.moveaxis(pixels, 3, 1))
    assert data.classes == ("a", "b")


def test_bfloat16_and_scalar_tensors_are_read() -> None:
    items = [(image.bfloat16(), label.float()) for image, label in zip(IMAGES, LABELS, strict=True)]
    data = dataset_of(Items(items))
    assert data.task == "regression"
    assert data.train.inputs.dtype == np.float32


@pytest.mark.parametrize(
    "items, words",
    [
        ([], ["train", "no samples"]),
        ([IMAGES[0]], ["sample 0", "(input, target)", "Tensor"]),
        ([(IMAGES[0], 0), (IMAGES[1, :3], 1)], ["sample 1", "(6, 16, 16)", "(3, 16, 16)"]),
        ([(IMAGES[0], 0), (IMAGES[1], 1, 2)], ["sample 1", "tuple"]),
        ([(IMAGES[0], [0, 1]), (IMAGES[1], [0])], ["sample 1", "differ in shape"]),
    ],
)
def test_unsuitable_samples_are_named(items: list[Any], words: list[str]) -> None:
    message = refusal(dataset_of, Items(items))
    for word in words:
        assert word in message


def test_random_transforms_are_noted() -> None:
    class Noisy(Items):
        def __getitem__(self, index: int) -> Any:
            return torch.randn(1, 8, 8), self.items[index]

    (note,) = dataset_of(Noisy([0, 1] * 10)).notes
    assert "another sample 0 each time" in note
