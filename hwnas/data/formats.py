"""Functions shared by all dataset readers, and the reader of idx files.

Each reader returns the images as they are stored and checks the labels against the classes.
Datasets are untrusted input: nothing in them is executed (no pickles), nothing is extracted to
disk, and a size that a file declares is checked before memory is allocated for it.

Shapes: images (N, C, H, W) uint8, or uint16 if they have 16 bits per channel; labels (N,) int64 in
0 .. len(classes) - 1.
"""

from __future__ import annotations

import gzip
import math
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from hwnas.errors import InputError
from hwnas.inspection.arrays import BROKEN_FILE, check_inflation

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


IMAGE_CLASSIFICATION, SEGMENTATION = "image-classification", "segmentation"
DETECTION, REGRESSION = "detection", "regression"
SEQUENCE_LABELLING = "sequence-labelling"
QUESTION_ANSWERING, NEXT_REPLY = "question-answering", "next-reply"
IMAGE_GENERATION = "image-generation"
DEEPEST = 2**16 - 1
"""Largest value of images with 16 bits per channel."""
VOID = -1
"""Class of the pixels or positions without a label, which losses and metrics ignore."""


class RawData(NamedTuple):
    """What a reader returns: the inputs and targets of both splits and their description.

    `hwnas.data.dataset` documents the shapes and dtypes, and `Dataset` the other fields.
    """

    classes: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    task: str = IMAGE_CLASSIFICATION
    vocabulary: tuple[str, ...] = ()
    reading: Mapping[str, Any] = MappingProxyType({})
    notes: tuple[str, ...] = ()


def require_no_pipe(path: Path) -> None:
    """Refuse a pipe, socket or device, which may be read without an end.

    Folders and files that cannot be found are left to the reader, whose errors say what it expects.

    Raises:
        InputError: the path is one.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError("not a regular file", where=str(path), actual="a pipe, socket or device")


def image_reading(images: np.ndarray) -> dict[str, Any]:
    """Return the `reading` of images: the value that they were divided by, unless they are uint8.

    Args:
        images: uint8 or uint16; float32 images are not divided.
    """
    return {"largest_value": DEEPEST} if images.dtype == np.uint16 else {}


def seeded_rng(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Return a random number generator that depends on nothing but its arguments.

    Args:
        seed: the user's seed.
        purpose: what the numbers are for. Different purposes give independent numbers: without
            it, the order of epoch 3 and the augmentation of step 3 would be correlated.
        index: number of the epoch, step or the like.

    Raises:
        InputError: the seed is negative or not an integer.
    """
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError("invalid seed", where="seed", expected="an integer >= 0", actual=seed)
    key = (*purpose.encode(), index)
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=key))


def subset_indices(count: int, limit: int | None, seed: int, split: str) -> np.ndarray:
    """Choose a random subset of the samples of a split.

    Args:
        count: number of samples.
        limit: size of the subset; None for all samples.
        seed: determines the subset.
        split: `train` or `test`, so that the subsets of both are independent.

    Returns:
        Indices (min(count, limit),) int64 in ascending order.

    Raises:
        InputError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(
            "the limit is too small", where=f"{split}_limit", expected=">= 1", actual=limit
        )
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(seeded_rng(seed, f"{split} subset").choice(count, limit, replace=False))


def check_labels(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
    """Check labels and return them as (N,) int64.

    Args:
        labels: the labels, as read.
        classes: number of classes.
        where: the file, for error messages.

    Raises:
        InputError: the labels are not a non-empty vector of integers in 0 .. classes - 1.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        actual = f"shape {labels.shape} {labels.dtype}"
        raise InputError(
            "invalid labels", where=where, expected="integers, shape (N,)", actual=actual
        )
    if not len(labels):
        raise InputError("no samples", where=where, expected="at least one")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            "label out of range",
            where=where,
            expected=f"labels in 0..{classes - 1} for {classes} classes",
            actual=f"{low}..{high}",
        )
    return labels.astype(np.int64)


def require_finite(inputs: np.ndarray, where: str) -> None:
    """Refuse NaN and infinity in inputs (N, C, H, W) float32, naming the first sample and channel.

    Raises:
        InputError: there are any.
    """
    is_finite = np.isfinite(inputs)
    if is_finite.all():
        return
    wrong = ~is_finite.reshape(*inputs.shape[:2], -1).all(axis=2)
    sample, channel = (int(axis[0]) for axis in np.nonzero(wrong))
    count = int(wrong.any(axis=1).sum())
    raise InputError(
        f"NaN or infinity in {count} of {len(inputs)} samples",
        where=f"{where}: sample {sample}, channel {channel}",
        expected="finite numbers of float32",
        mend="fill missing values in, or leave these samples out",
    )


def check_counts(inputs: np.ndarray, targets: np.ndarray, where: str) -> None:
    """Raise InputError unless there is one target for each sample."""
    if len(inputs) != len(targets):
        raise InputError(
            "the numbers of inputs and targets differ",
            where=where,
            expected=f"{len(inputs)} targets, one for each sample",
            actual=len(targets),
        )


# ---- idx files (Fashion-MNIST, MNIST) ----


def read_idx_folder(path: Path, classes: tuple[str, ...]) -> RawData:
    """Read a folder with the four published files of Fashion-MNIST or MNIST.

    Args:
        path: the folder.
        classes: class names in the order of the labels.

    Raises:
        InputError: a file is missing, truncated or damaged, or has a wrong magic number or label.
    """
    arrays = []
    for split in ("train", "t10k"):
        images_file = path / f"{split}-images-idx3-ubyte.gz"
        labels_file = path / f"{split}-labels-idx1-ubyte.gz"
        images = _read_idx(images_file, dimensions=3)
        labels = check_labels(_read_idx(labels_file, dimensions=1), len(classes), str(labels_file))
        check_counts(images, labels, str(labels_file))
        arrays += [images[:, None], labels]
    x_train, y_train, x_test, y_test = arrays
    return RawData(classes, x_train, y_train, x_test, y_test)


def _read_idx(file: Path, dimensions: int) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes.

    The layout is big-endian: two zero bytes, the type 0x08, the number of dimensions, one uint32
    per dimension, the data (http://yann.lecun.com/exdb/mnist/).
    """
    where = str(file)
    if not file.is_file():
        raise InputError("no such file", where=where, expected=f"the published {file.name}")
    try:
        with gzip.open(file) as stream:
            magic, expected = stream.read(4), bytes((0, 0, 8, dimensions))
            if magic != expected:
                raise InputError(
                    "wrong magic number of an idx file",
                    where=where,
                    expected=expected,
                    actual=magic,
                    mend="download it again",
                )
            shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
            size = math.prod(shape)
            check_inflation(file.stat().st_size, size, where)
            content = stream.read(size) + stream.read(1)
    except BROKEN_FILE as error:
        raise InputError(
            "truncated or damaged file", where=where, actual=error, mend="download it again"
        ) from error
    if len(content) != size or not size:
        actual = f"{len(content)} bytes or more" if len(content) > size else f"{len(content)} bytes"
        raise InputError(
            "wrong size of the data",
            where=where,
            expected=f"{size} bytes for shape {shape}" if size else "at least one sample",
            actual=actual,
        )
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
