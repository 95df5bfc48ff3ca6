"""Data of one's own as a dataset: arrays, a PyTorch dataset, or a loader of batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from hwnas.data.arrays import ChannelAxis, Kind, raw_data_of
from hwnas.data.dataset import Dataset, Split
from hwnas.data.formats import seeded_rng
from hwnas.errors import InputError

Samples = tuple[Any, Any] | TorchDataset[Any] | DataLoader[Any]
"""Inputs and targets as a pair of arrays or tensors, or what gives pairs of them."""


def dataset_of(
    train: Samples,
    test: Samples | None = None,
    *,
    kind: Kind | None = None,
    channels: ChannelAxis | None = None,
    classes: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str = "own data",
) -> Dataset:
    """Make a dataset from arrays, a PyTorch dataset, or a loader of batches.

    Images keep 8 or 16 bits per channel if their type is uint8 or uint16; everything else becomes
    float32. Mean and standard deviation, by channel or column, are taken from the training part
    alone. A PyTorch dataset or loader is read once from beginning to end, so random transforms
    belong into `[train]`, not into it.

    Args:
        train: a pair (inputs, targets) of arrays or tensors, a `torch.utils.data.Dataset` of such
            pairs for single samples, or a `DataLoader` of such pairs for batches. Inputs are
            images (N, C, H, W) with any number of channels, (N, H, W, C) or (N, H, W); signals
            (N, C, L) or (N, L, C); or tables (N, F). Targets are classes (N,) as integers or
            texts, values (N,) as floats, a class for each pixel (N, H, W), or boxes (N, B, 5)
            (see `hwnas.data.dataset`).
        test: the samples that scores are taken on; None takes a part of `train`.
        kind: what one sample is: "image", "signal" or "table". If None, two dimensions are a
            table, four are images, and three are signals, or grey images if they are uint8 or
            uint16.
        channels: which axis behind the samples holds the channels, "first" or "last". If None,
            the sizes have to tell: at most 4 channels beside larger sides for images, fewer
            channels than times for signals. What PyTorch datasets and loaders give has them first.
        classes: names of the classes, whose indices integer targets then are. Without it the
            classes are the different training targets, in order.
        test_fraction: fraction of `train` that becomes the test part if there is no `test`; of
            each class, if samples have one class each.
        seed: draws that part.
        name: names the data in errors and documents.

    Returns:
        The dataset, as `load_dataset` returns it.

    Raises:
        InputError: arrays of unsupported shapes or types, parts that do not fit each other,
            values that are not finite, classes of the test part alone, or an empty part.
    """
    notes = [note for given in (train, test) for note in _random_transforms(given, name)]
    x_train, y_train, train_axis = arrays_of(train, f"{name}: train")
    if test is None:
        chosen = held_out(y_train, test_fraction, seed, f"{name}: test_fraction")
        x_test, y_test = x_train[chosen], y_train[chosen]
        x_train, y_train = x_train[~chosen], y_train[~chosen]
    else:
        x_test, y_test, _ = arrays_of(test, f"{name}: test")
    raw = raw_data_of(
        x_train,
        y_train,
        x_test,
        y_test,
        kind=kind,
        channels=channels or train_axis,
        classes=classes,
        where=f"{name}: ",
    )
    splits = Split(raw.x_train, raw.y_train), Split(raw.x_test, raw.y_test)
    all_notes = (*notes, *raw.notes)
    return Dataset(name, raw.classes, *splits, raw.task, reading=raw.reading, notes=all_notes)


def arrays_of(samples: Samples, where: str) -> tuple[np.ndarray, np.ndarray, ChannelAxis | None]:
    """Return inputs, targets, and the axis of the channels where PyTorch's convention tells."""
    if isinstance(samples, DataLoader | TorchDataset):
        return (*_read(samples, where), "first")
    if isinstance(samples, tuple | list) and len(samples) == 2:
        inputs, targets = (_array(part, where) for part in samples)
        return inputs, targets, None
    raise InputError(
        "no samples with targets",
        where=where,
        expected="a pair (inputs, targets), a torch.utils.data.Dataset or a DataLoader",
        actual=type(samples).__name__,
    )


def _read(samples: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a PyTorch dataset sample by sample, or a loader batch by batch."""
    is_loader = isinstance(samples, DataLoader)
    items: Iterable[Any] = samples
    if not is_loader and not isinstance(samples, IterableDataset):
        items = (samples[index] for index in range(len(samples)))
    inputs: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for index, item in enumerate(items):
        place = f"{where}, {'batch' if is_loader else 'sample'} {index}"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(
                "not a pair of input and target",
                where=place,
                expected="(input, target)",
                actual=type(item).__name__,
            )
        for part, found in zip(item, (inputs, targets), strict=True):
            array = _array(part, place)
            if found and array.shape[is_loader:] != found[0].shape[is_loader:]:
                raise InputError(
                    "samples differ in shape",
                    where=place,
                    expected=found[0].shape[is_loader:],
                    actual=array.shape[is_loader:],
                )
            found.append(array)
    if not inputs:
        raise InputError("no samples", where=where, expected="at least one")
    join = np.concatenate if is_loader else np.stack
    return join(inputs), join(targets)


def _random_transforms(samples: Samples | None, name: str) -> list[str]:
    """Return a note if a PyTorch dataset gives another first sample each time."""
    if isinstance(samples, DataLoader):
        samples = samples.dataset
    if not isinstance(samples, TorchDataset) or isinstance(samples, IterableDataset):
        return []
    if not len(samples):  # type: ignore[arg-type]  # datasets with indices have a length
        return []
    first, second = (samples[0] for _ in range(2))
    if not isinstance(first, tuple | list) or not isinstance(second, tuple | list):
        return []
    if np.array_equal(_array(first[0], name), _array(second[0], name)):
        return []
    return [
        f"{name}: the dataset gives another sample 0 each time it is read, as random transforms "
        "do; each sample is read once"
    ]


def _array(values: Any, where: str) -> np.ndarray:
    """Return a tensor, picture, table or sequence as an array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        converted: np.ndarray = (
            values.float() if values.dtype == torch.bfloat16 else values
        ).numpy()
        return converted
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise InputError("samples differ in shape", where=where, actual=error) from None
    # Pillow's images have their channels last.
    is_picture = hasattr(values, "getbands") and found.ndim == 3
    return np.moveaxis(found, 2, 0) if is_picture else found


def held_out(targets: np.ndarray, fraction: float, seed: int, where: str) -> np.ndarray:
    """Return which samples (N,) bool are held out: a fraction of each class, or of all samples."""
    rng, count = seeded_rng(seed, "held out"), len(targets)
    if not 0 < fraction < 1:
        raise InputError(
            "no fraction", where=where, expected="a number between 0 and 1", actual=fraction
        )
    has_classes = targets.ndim == 1 and targets.dtype.kind not in "fc"
    groups = np.unique(targets, return_inverse=True)[1] if has_classes else np.zeros(count, int)
    chosen = np.zeros(count, bool)
    for group in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == group))
        chosen[members[: round(fraction * len(members))]] = True
    if not 0 < chosen.sum() < count:
        raise InputError(
            f"cannot hold out samples of {count}",
            where=where,
            expected="samples in both parts",
            actual=fraction,
            mend="give test samples of their own",
        )
    return chosen
