"""Data of one's own as a dataset: arrays, a PyTorch dataset, or a loader of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from hwnas.data.arrays import Arrays, ChannelAxis, Kinds, raw_data_of
from hwnas.data.dataset import Dataset, Split
from hwnas.data.formats import seeded_rng
from hwnas.data.inputs import by_position
from hwnas.errors import InputError

Samples = tuple[Any, Any] | TorchDataset[Any] | DataLoader[Any]
"""Inputs and targets as a pair of arrays or tensors, or what gives pairs of them. Several inputs
are a tuple or a dictionary of arrays."""


def dataset_of(
    train: Samples,
    test: Samples | None = None,
    *,
    kind: Kinds | None = None,
    channels: ChannelAxis | None = None,
    classes: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str = "own data",
) -> Dataset:
    """Make a dataset from arrays, a PyTorch dataset, or a loader of batches.

    Images keep 8 or 16 bits per channel if their type is uint8 or uint16; everything else but
    tokens becomes float32. Mean and standard deviation, by channel or column, are taken from the
    training part alone. A PyTorch dataset or loader is read once from beginning to end, so random
    transforms belong into `[train]`, not into it.

    A network with several inputs has a tuple or a dictionary of arrays as inputs, or samples that
    have a tuple or a dictionary of tensors in the place of the input. In a tuple, the order is that
    of the arguments of the network's `forward`, and in a dictionary the names are those of the
    arguments. Each input is normalised by itself.

    Args:
        train: a pair (inputs, targets) of arrays or tensors, a `torch.utils.data.Dataset` of such
            pairs for single samples, or a `DataLoader` of such pairs for batches. Inputs are
            images (N, C, H, W) with any number of channels, (N, H, W, C) or (N, H, W); signals
            (N, C, L) or (N, L, C); tables (N, F); or tokens (N, L). Targets are classes (N,) as
            integers or texts, values (N,) as floats, a class for each pixel (N, H, W), boxes
            (N, B, 5) (see `hwnas.data.dataset`), or, for signals, tokens and several inputs, a
            class for each position (N, L); -1 stands for positions without one.
        test: the samples that scores are taken on; None takes a part of `train`.
        kind: what one sample is: "image", "signal", "table" or "tokens"; of several inputs a tuple
            or dictionary of kinds. If None, two dimensions are a table, four are images, and three
            are signals, or grey images if they are uint8 or uint16.
        channels: which axis behind the samples holds the channels, "first" or "last". If None,
            the sizes have to tell: at most 4 channels beside larger sides for images, fewer
            channels than times for signals. What PyTorch datasets and loaders give has them first.
        classes: names of the classes, whose indices integer targets then are. Without it the
            classes are the different training targets, in order.
        vocabulary: the text of each token, whose indices the inputs are; by default the numbers.
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
        x_test, y_test = _taken(x_train, chosen), y_train[chosen]
        x_train, y_train = _taken(x_train, ~chosen), y_train[~chosen]
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
        vocabulary=vocabulary,
        where=f"{name}: ",
    )
    splits = Split(raw.x_train, raw.y_train), Split(raw.x_test, raw.y_test)
    all_notes = (*notes, *raw.notes)
    return Dataset(name, raw.classes, *splits, raw.task, raw.vocabulary, raw.reading, all_notes)


def arrays_of(samples: Samples, where: str) -> tuple[Arrays, np.ndarray, ChannelAxis | None]:
    """Return inputs, targets, and the axis of the channels where PyTorch's convention tells.

    Several inputs are returned by name, or by position if they have no names.
    """
    if isinstance(samples, DataLoader | TorchDataset):
        return (*_read(samples, where), "first")
    if isinstance(samples, tuple | list) and len(samples) == 2:
        several = several_inputs(samples[0])
        targets = _array(samples[1], where)
        if several is None:
            return _array(samples[0], where), targets, None
        inputs = {name: _array(part, f"{where} {name}") for name, part in several.items()}
        counts = {len(part) for part in inputs.values()}
        if counts != {len(targets)}:
            raise InputError(
                "not one target for each sample of each input",
                where=where,
                expected=f"{len(targets)} samples, as there are targets",
                actual=", ".join(f"{name}: {len(part)}" for name, part in inputs.items()),
            )
        return inputs, targets, None
    raise InputError(
        "no samples with targets",
        where=where,
        expected="a pair (inputs, targets), a torch.utils.data.Dataset or a DataLoader",
        actual=type(samples).__name__,
    )


def several_inputs(given: Any) -> dict[str, Any] | None:
    """Return several inputs by name or position; None for what is a single input.

    Several inputs are a dictionary, or a tuple of arrays or tensors. A loader's batches have a list
    in the place of a tuple.
    """
    if isinstance(given, Mapping):
        return {str(name): part for name, part in given.items()}
    is_array = isinstance(given, tuple) and all(getattr(part, "shape", ()) for part in given)
    return by_position(given) if is_array and len(given) > 1 else None


def _taken(inputs: Arrays, chosen: np.ndarray) -> Arrays:
    """Return some samples of one or of several inputs."""
    if isinstance(inputs, np.ndarray):
        taken: np.ndarray = inputs[chosen]
        return taken
    return {name: part[chosen] for name, part in inputs.items()}


def _read(samples: Any, where: str) -> tuple[Arrays, np.ndarray]:
    """Read a PyTorch dataset sample by sample, or a loader batch by batch."""
    is_loader = isinstance(samples, DataLoader)
    items: Iterable[Any] = samples
    if not is_loader and not isinstance(samples, IterableDataset):
        items = (samples[index] for index in range(len(samples)))
    inputs: dict[str, list[np.ndarray]] = {}
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
        several = several_inputs(tuple(item[0]) if is_loader and type(item[0]) is list else item[0])
        parts = {"": item[0]} if several is None else several
        if inputs and parts.keys() != inputs.keys():
            raise InputError(
                "samples differ in their inputs",
                where=place,
                expected=", ".join(inputs) or "one input",
                actual=", ".join(parts) or "one input",
            )
        columns = [(part, inputs.setdefault(name, [])) for name, part in parts.items()]
        for part, found in (*columns, (item[1], targets)):
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
    arrays: dict[str, np.ndarray] = {name: join(found) for name, found in inputs.items()}
    return arrays.get("", arrays), join(targets)


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
    inputs = (several_inputs(item[0]) or {"": item[0]} for item in (first, second))
    pairs = zip(*(parts.values() for parts in inputs), strict=False)
    if all(np.array_equal(_array(one, name), _array(other, name)) for one, other in pairs):
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
