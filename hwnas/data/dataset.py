"""Datasets and batches: uint8 images in memory, normalised one batch at a time.

A batch is a pure function of the seed and the step, so that a run resumes at any step without
saved random states.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hwnas.data.cifar import CIFAR10, CIFAR100, read_cifar
from hwnas.data.formats import (
    FASHION_MNIST_CLASSES,
    RawData,
    check_labels,
    read_idx_folder,
    read_npz,
    seeded_rng,
    subset_indices,
)
from hwnas.data.image_folder import read_image_folder
from hwnas.errors import InputError

# Each name of a dataset, with what its path has to be.
DATASETS = {
    "fashion-mnist-slice": "no path: it ships with hwnas",
    "npz": "an .npz file with x_train, y_train, x_test, y_test and, optionally, classes",
    "folder": "a folder with train/<class>/*.png and test/<class>/*.png (or .jpg, ...)",
    "cifar10": f"{CIFAR10.archive}, or the folder with the .bin files that it extracts to",
    "cifar100": f"{CIFAR100.archive}, or the folder with the .bin files that it extracts to",
    "fashion-mnist": "a folder with train-images-idx3-ubyte.gz and the three files beside it",
    "mnist": "a folder with train-images-idx3-ubyte.gz and the three files beside it",
}


@dataclass(frozen=True)
class Split:
    """Images as they were read: images (N, C, H, W) uint8, labels (N,) int64.

    Raises:
        InputError: other shapes or types, or no samples.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what the batches could not be cut from."""
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
            actual = f"{images.shape} {images.dtype}"
            raise InputError("bad images", expected="shape (N, C, H, W) uint8", actual=actual)
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            expected, actual = f"({len(images)},) int64", f"{labels.shape} {labels.dtype}"
            raise InputError("bad labels", expected=expected, actual=actual)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """Return a copy of the samples at `indices` (M,)."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A training and a test split over the same classes and the same image shape.

    Raises:
        InputError: the splits differ in shape, or a label is out of range.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split

    def __post_init__(self) -> None:
        """Check the splits against each other and against the classes."""
        shapes = self.train.images.shape[1:], self.test.images.shape[1:]
        if shapes[0] != shapes[1]:
            raise InputError(
                "training and test images differ in shape (channels, height, width)",
                where=self.name,
                expected=shapes[0],
                actual=shapes[1],
            )
        check_labels(self.train.labels, len(self.classes), f"{self.name}: train")
        check_labels(self.test.labels, len(self.classes), f"{self.name}: test")

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.train.images.shape[1])

    @property
    def height(self) -> int:
        """Number of rows H."""
        return int(self.train.images.shape[2])

    @property
    def width(self) -> int:
        """Number of columns W."""
        return int(self.train.images.shape[3])

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training images, scaled to 0..1, to four digits."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, as `mean`.

        Raises:
            InputError: a channel is constant and could not be normalised.
        """
        std = self._moments[1]
        if not all(std):
            raise InputError(
                f"channel {std.index(0.0)} of the training images is constant",
                where=self.name,
                expected="a standard deviation of at least 0.0001",
                mend="drop the channel",
            )
        return std

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Exact mean and standard deviation, from a histogram of each channel."""
        images = self.train.images
        counts = np.zeros((self.channels, 256), np.int64)
        chunk = max(1, 2**22 // (self.height * self.width))  # bincount widens uint8 to int64
        for start in range(0, len(images), chunk):
            for channel in range(self.channels):
                pixels = images[start : start + chunk, channel].ravel()
                counts[channel] += np.bincount(pixels, minlength=256)
        values = np.arange(256) / 255
        share = counts / counts.sum(axis=1, keepdims=True)
        mean = share @ values
        std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
        return tuple(np.round(mean, 4).tolist()), tuple(np.round(std, 4).tolist())

    def normalise(self, images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return (images / 255 - mean) / std.

        Args:
            images: (N, C, H, W) uint8.
            device: where the result is put.

        Returns:
            (N, C, H, W) float32 in channels_last memory format.

        Raises:
            InputError: another type, or another number of channels than the dataset's.
        """
        if images.ndim != 4 or images.shape[1] != self.channels or images.dtype != np.uint8:
            raise InputError(
                "cannot normalise",
                where=self.name,
                expected=f"(N, {self.channels}, H, W) uint8",
                actual=f"{images.shape} {images.dtype}",
            )
        # The copy also serves read-only arrays and negative strides, which torch cannot wrap.
        pixels = torch.from_numpy(images.copy()).to(device).float()
        mean = torch.tensor(self.mean, device=device)[:, None, None]
        std = torch.tensor(self.std, device=device)[:, None, None]
        return channels_last(pixels.sub_(mean * 255).div_(std * 255))


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Copy to channels_last; unlike `contiguous`, it sets the strides for one channel as well."""
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def load_dataset(
    name: str = "fashion-mnist-slice",
    path: str | None = None,
    *,
    image_size: int | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read a dataset into memory.

    Args:
        name: a key of `DATASETS`.
        path: the file or folder that `DATASETS` describes; None for the dataset that ships.
        image_size: side in pixels to which the images of a folder are resized.
        train_limit: keep a random subset of this many training images; None keeps all.
        test_limit: the same for the test images.
        seed: chooses the subsets.

    Raises:
        InputError: an unknown name, a missing path, or content that cannot be used.
    """
    if name not in DATASETS:
        raise InputError("unknown dataset", where="name", expected=list(DATASETS), actual=name)
    if (path is None) != (name == "fashion-mnist-slice"):
        raise InputError(
            "needs a path" if path is None else "takes no path",
            where=f"dataset {name}",
            expected=DATASETS[name],
            actual=path,
        )
    if image_size is not None and name != "folder":
        raise InputError(
            "cannot be resized",
            where=f"dataset {name}",
            expected="image_size only with the dataset folder",
            actual=f"image_size {image_size}",
        )
    try:
        if path is None:
            resource = importlib.resources.files("hwnas.datasets") / "fashion_mnist_slice.npz"
            with importlib.resources.as_file(resource) as file:
                raw = read_npz(file)
        else:
            limits = (train_limit, test_limit)
            raw = _read(name, Path(path).expanduser(), image_size, limits, seed)
    except (OSError, MemoryError) as error:
        raise InputError(
            "cannot be read", where=path or name, expected=DATASETS[name], actual=error
        ) from error
    train = Split(raw.x_train, raw.y_train)
    test = Split(raw.x_test, raw.y_test)
    train = _limited(train, train_limit, seed, "train")
    test = _limited(test, test_limit, seed, "test")
    return Dataset(name, raw.classes, train, test)


def _read(
    name: str,
    path: Path,
    image_size: int | None,
    limits: tuple[int | None, int | None],
    seed: int,
) -> RawData:
    """Pick the reader of a dataset that has a path."""
    is_right_kind = {
        "npz": path.is_file(),
        "cifar10": path.exists(),
        "cifar100": path.exists(),
    }.get(name, path.is_dir())
    if not is_right_kind:
        cause = "is not the right kind of file" if path.exists() else "does not exist"
        raise InputError(cause, where=str(path), expected=DATASETS[name])
    match name:
        case "npz":
            return read_npz(path)
        case "folder":
            return read_image_folder(path, image_size, *limits, seed)
        case "cifar10":
            return read_cifar(path, CIFAR10)
        case "cifar100":
            return read_cifar(path, CIFAR100)
        case "mnist":
            return read_idx_folder(path, tuple("0123456789"))
    return read_idx_folder(path, FASHION_MNIST_CLASSES)


def _limited(split: Split, limit: int | None, seed: int, name: str) -> Split:
    indices = subset_indices(len(split), limit, seed, name)
    return split if len(indices) == len(split) else split.take(indices)


def split_train(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part the training images at random, as for the weights and the architecture of a search.

    Returns:
        `fraction` of the samples (rounded), and the rest; both in the order of `split`.

    Raises:
        InputError: one of the parts would be empty.
    """
    first = round(fraction * len(split)) if 0 < fraction < 1 else 0
    if not 0 < first < len(split):
        raise InputError(
            f"cannot part {len(split)} training images",
            where="fraction",
            expected="a number between 0 and 1 that leaves images on both sides",
            actual=fraction,
        )
    order = seeded_rng(seed, "parts").permutation(len(split))
    return split.take(np.sort(order[:first])), split.take(np.sort(order[first:]))
