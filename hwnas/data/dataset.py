"""Datasets: inputs and targets in memory, normalised one batch at a time.

Shapes: N samples, C channels, H rows, W columns, L tokens. Inputs are one of

    images    (N, C, H, W) uint8
    features  (N, C, H, W) float32, such as spectrograms; a table has a channel a column
    tokens    (N, L) int64, indices of a vocabulary

and targets one of

    classes   (N,) int64
    maps      (N, H, W) int64, a class for each place
    values    (N, 1) float32
    boxes     (N, B, 5) float32: class, left, top, right, bottom in pixels; class -1 for no box
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hwnas.data.formats import IMAGE_CLASSIFICATION, check_labels, seeded_rng
from hwnas.errors import InputError

INPUTS = {(4, "uint8"), (4, "float32"), (2, "int64")}
TARGETS = {(1, "int64"), (3, "int64"), (2, "float32"), (3, "float32")}
"""Numbers of dimensions and types, in the order of the module's text."""


@dataclass(frozen=True)
class Split:
    """Samples as they were read; see the module for shapes and types.

    Raises:
        InputError: other shapes or types, or no samples.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what the batches could not be cut from."""
        inputs, targets = self.inputs, self.targets
        if (inputs.ndim, inputs.dtype.name) not in INPUTS or not inputs.size:
            expected = "(N, C, H, W) uint8 or float32, or (N, L) int64"
            actual = f"{inputs.shape} {inputs.dtype}"
            raise InputError("bad inputs", expected=expected, actual=actual)
        known = (targets.ndim, targets.dtype.name) in TARGETS
        if not known or len(targets) != len(inputs):
            expected = f"({len(inputs)},) int64, or as many maps, values or boxes"
            actual = f"{targets.shape} {targets.dtype}"
            raise InputError("bad targets", expected=expected, actual=actual)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def take(self, indices: np.ndarray) -> Split:
        """Return a copy of the samples at `indices` (M,)."""
        return Split(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True)
class Dataset:
    """A training and a test split of one task, over the same classes and one shape of inputs.

    Attributes:
        name: as a configuration names it.
        classes: names; of a language the tokens, of values what they are.
        train, test: the splits.
        task: a key of `hwnas.tasks.TASKS`.
        vocabulary: texts of the tokens; empty where the inputs are none.
        reading: how the inputs were made from files, for whoever feeds the exported model.

    Raises:
        InputError: the splits differ in shape, or a target is out of range.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    task: str = IMAGE_CLASSIFICATION
    vocabulary: tuple[str, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the splits against each other and against the classes."""
        shapes = self.train.inputs.shape[1:], self.test.inputs.shape[1:]
        if shapes[0] != shapes[1]:
            raise InputError(
                "training and test inputs differ in shape",
                where=self.name,
                expected=shapes[0],
                actual=shapes[1],
            )
        for split, name in ((self.train, "train"), (self.test, "test")):
            _check_targets(split.targets, len(self.classes), f"{self.name}: {name}")
            if self.vocabulary:
                check_labels(split.inputs.ravel(), len(self.vocabulary), f"{self.name}: {name}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W), or (L,) of tokens."""
        return self.train.inputs.shape[1:]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training inputs, of images scaled to 0..1."""
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
                f"channel {std.index(0.0)} of the training inputs is constant",
                where=self.name,
                expected="values that differ",
                mend="drop the channel",
            )
        return std

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel."""
        inputs = self.train.inputs
        if inputs.dtype == np.uint8:
            mean, std = _moments_of_bytes(inputs)
        else:
            channels = inputs.swapaxes(0, 1).reshape(inputs.shape[1], -1).astype(np.float64)
            mean, std = channels.mean(axis=1), channels.std(axis=1)
        return tuple(mean.tolist()), tuple(std.tolist())

    def normalise(self, inputs: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return (inputs - mean) / std, images scaled to 0..1 before; tokens as they are.

        Args:
            inputs: of the shape and type of the dataset's.
            device: where the result is put.

        Returns:
            (N, C, H, W) float32 in channels_last memory format, or (N, L) int64.

        Raises:
            InputError: another type, or another number of channels than the dataset's.
        """
        own = self.train.inputs
        if inputs.ndim != own.ndim or inputs.shape[1] != own.shape[1] or inputs.dtype != own.dtype:
            sizes = "L" if self.vocabulary else f"{own.shape[1]}, H, W"
            raise InputError(
                "cannot normalise",
                where=self.name,
                expected=f"(N, {sizes}) {own.dtype}",
                actual=f"{inputs.shape} {inputs.dtype}",
            )
        # The copy also serves read-only arrays and negative strides, which torch cannot wrap.
        values = torch.from_numpy(inputs.copy()).to(device)
        if self.vocabulary:
            return values
        scale = 255 if inputs.dtype == np.uint8 else 1
        mean = torch.tensor(self.mean, device=device)[:, None, None]
        std = torch.tensor(self.std, device=device)[:, None, None]
        return channels_last(values.float().sub_(mean * scale).div_(std * scale))


def _moments_of_bytes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and standard deviation of each channel, from its histogram; four digits."""
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    chunk = max(1, 2**22 // images[0, 0].size)  # bincount widens uint8 to int64
    for start in range(0, len(images), chunk):
        for channel in range(channels):
            pixels = images[start : start + chunk, channel].ravel()
            counts[channel] += np.bincount(pixels, minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return np.round(mean, 4), np.round(std, 4)


def _check_targets(targets: np.ndarray, classes: int, where: str) -> None:
    if targets.dtype == np.int64:
        check_labels(targets.ravel(), classes, where)
    elif not np.isfinite(targets).all():
        raise InputError("a target is not finite", where=where)
    elif targets.ndim == 3:
        present = targets[targets[..., 0] >= 0]
        check_labels(np.append(present[:, 0], 0).astype(np.int64), classes, where)
        if (present[:, 1:3] >= present[:, 3:5]).any():
            raise InputError("an empty box", where=where, expected="left < right, top < bottom")


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Copy to channels_last; unlike `contiguous`, it sets the strides for one channel as well."""
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def split_train(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part the training samples at random, as for the weights and the architecture of a search.

    Returns:
        `fraction` of the samples (rounded), and the rest; both in the order of `split`.

    Raises:
        InputError: one of the parts would be empty.
    """
    first = round(fraction * len(split)) if 0 < fraction < 1 else 0
    if not 0 < first < len(split):
        raise InputError(
            f"cannot part {len(split)} training samples",
            where="fraction",
            expected="a number between 0 and 1 that leaves samples on both sides",
            actual=fraction,
        )
    order = seeded_rng(seed, "parts").permutation(len(split))
    return split.take(np.sort(order[:first])), split.take(np.sort(order[first:]))
