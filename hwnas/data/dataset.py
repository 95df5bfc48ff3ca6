"""Datasets in memory: raw inputs and targets, which are normalised one batch at a time.

Shapes: N samples, C channels, H rows, W columns, L tokens, B boxes. Inputs are one of::

    images    (N, C, H, W) uint8 or uint16
    features  (N, C, H, W) float32, such as spectrograms; a signal has one row, and a table or a
              latent vector has one channel per column and one place
    tokens    (N, L) int64, indices into a vocabulary
    several   a structured array (N,) with a field for each input, see `hwnas.data.inputs`

and targets one of::

    classes   (N,) int64
    labels    (N, L) int64, one class per position, `VOID` (-1) for positions that are not labelled
    spans     (N, 2) int64, first and last position of an answer
    maps      (N, H, W) int64, one class per pixel, `VOID` (-1) for pixels that are not labelled;
              (N, 1, L) for the next token at each position
    values    (N, 1) float32
    boxes     (N, B, 5) float32: class, left, top, right, bottom in pixels; class -1 pads
    images    (N, C, H, W) uint8, which networks learn to generate
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hwnas.data.formats import (
    IMAGE_CLASSIFICATION,
    IMAGE_GENERATION,
    NEXT_REPLY,
    QUESTION_ANSWERING,
    SEGMENTATION,
    SEQUENCE_LABELLING,
    VOID,
    check_labels,
    require_finite,
    seeded_rng,
)
from hwnas.data.inputs import (
    InputShape,
    InputTensors,
    NamedInput,
    fields_of,
    in_order,
    joined,
)
from hwnas.data.normalisation import Normalisation, moments_of
from hwnas.errors import InputError

INPUTS = {(4, "uint8"), (4, "uint16"), (4, "float32"), (2, "int64")}
SEVERAL_INPUTS = INPUTS | {(3, "float32"), (2, "float32")}
TARGETS = {(1, "int64"), (2, "int64"), (3, "int64"), (2, "float32"), (3, "float32"), (4, "uint8")}
"""Number of dimensions and dtype of each kind, in the order of the module docstring."""


@dataclass(frozen=True)
class Split:
    """Samples as they were read; the module docstring lists the shapes and dtypes.

    Attributes:
        inputs: images, features or tokens, or several of them.
        targets: as many classes, labels, maps, values or sets of boxes.

    Raises:
        InputError: the split is empty, or a shape or dtype is not one of those listed.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        """Check the shapes and dtypes."""
        inputs, targets = self.inputs, self.targets
        fields = fields_of(inputs)
        for name, array in (fields or {"": inputs}).items():
            kinds = SEVERAL_INPUTS if fields else INPUTS
            if (array.ndim, array.dtype.name) not in kinds or not array.size:
                expected = "(N, C, H, W) uint8, uint16 or float32, or (N, L) int64"
                raise InputError(
                    "unsupported shape or dtype of the inputs",
                    where=name,
                    expected=f"{expected}, or (N, C, L) or (N, F) float32" if fields else expected,
                    actual=f"{array.shape} {array.dtype}",
                )
        known = (targets.ndim, targets.dtype.name) in TARGETS
        if not known or len(targets) != len(inputs):
            expected = f"({len(inputs)},) int64, or as many maps, values or boxes"
            actual = f"{targets.shape} {targets.dtype}"
            raise InputError(
                "unsupported shape or dtype of the targets", expected=expected, actual=actual
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def take(self, indices: np.ndarray) -> Split:
        """Return a copy of the samples at `indices` (M,)."""
        return Split(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True)
class Dataset:
    """A training and a test split of one task, with the same classes and input shape.

    Attributes:
        name: the dataset's name in the configuration.
        classes: class names. For language modelling these are the tokens, for regression the
            name of the predicted value, and for generated images the names of their channels.
        train, test: the splits.
        task: a key of `hwnas.tasks.TASKS` or `OWN_TASKS`.
        vocabulary: the text of each token; empty if the inputs are not tokens.
        reading: how the inputs were computed from the files (sample rate, table columns, ...),
            which users of the exported model have to reproduce.
        notes: what was left out or filled in while reading, in words.

    Raises:
        InputError: the input shapes of the splits differ, a target is out of range, or a
            class has the name of another one.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    task: str = IMAGE_CLASSIFICATION
    vocabulary: tuple[str, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the splits against each other and against the classes."""
        _check_names(self.classes, self.name)
        shapes = _sample_shapes(self.train.inputs), _sample_shapes(self.test.inputs)
        if shapes[0] != shapes[1]:
            raise InputError(
                "training and test inputs differ in shape",
                where=self.name,
                expected=shapes[0],
                actual=shapes[1],
            )
        for split, name in ((self.train, "train"), (self.test, "test")):
            where, targets = f"{self.name}: {name}", split.targets
            if self.task in (SEGMENTATION, SEQUENCE_LABELLING, NEXT_REPLY):
                targets = targets[targets != VOID]
            positions = shapes[0][-1] if self.task == QUESTION_ANSWERING else None
            _check_targets(targets, positions or len(self.classes), where)
            for field_name, array in (fields_of(split.inputs) or {"": split.inputs}).items():
                if array.dtype == np.float32:
                    require_finite(array, f"{where} {field_name}".rstrip())
            if self.vocabulary:
                check_labels(split.inputs.ravel(), len(self.vocabulary), where)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W), or (L,) for tokens; () if there are several inputs."""
        return self.train.inputs.shape[1:]

    @property
    def inputs(self) -> tuple[NamedInput, ...]:
        """Several inputs, as a network reads them; empty if there is one."""
        return tuple(
            NamedInput(name, array.shape[1:], "int64" if array.dtype == np.int64 else "float32")
            for name, array in fields_of(self.train.inputs).items()
        )

    @property
    def reads(self) -> InputShape:
        """What a network reads: the shape of its input, or its inputs."""
        return self.inputs or self.input_shape

    @property
    def categories(self) -> tuple[int, ...]:
        """Number of different codes of each of the last columns of a table, 0 for unknown texts.

        Empty unless texts are encoded for an embedding, see `hwnas.data.table_columns`.
        """
        texts = self.reading.get("categories", {})
        return tuple(1 + len(known) for known in texts.values())

    @cached_property
    def normalisation(self) -> Normalisation:
        """How raw inputs become a network's inputs; its moments are those of the training inputs.

        A channel that is constant has the standard deviation 1, so that it becomes 0. Codes of
        categories are not changed, nor are latent vectors.

        Raises:
            InputError: every channel is constant, so that nothing can be learned.
        """
        if self.task == IMAGE_GENERATION:
            latents = self.input_shape[0]
            return Normalisation("float32", (0.0,) * latents, (1.0,) * latents)
        return _normalisation_of(self.train.inputs, self.name, len(self.categories))

    @cached_property
    def normalisations(self) -> dict[str, Normalisation | None]:
        """How each of several raw inputs becomes a network's input; None for tokens.

        Raises:
            InputError: every channel of an input is constant.
        """
        return {
            name: None
            if array.dtype == np.int64
            else _normalisation_of(array, f"{self.name}: {name}")
            for name, array in fields_of(self.train.inputs).items()
        }

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over the training inputs; images are scaled to 0..1 first."""
        return self.normalisation.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over the training inputs, scaled as for `mean`."""
        return self.normalisation.std

    def with_training(self, train: Split) -> Dataset:
        """The same data with other training samples, normalised by the moments of these."""
        other = replace(self, train=train)
        if self.inputs:
            other.__dict__["normalisations"] = self.normalisations
        elif not self.vocabulary:
            other.__dict__["normalisation"] = self.normalisation
        return other

    def with_normalisation(self, normalisation: Normalisation) -> Dataset:
        """The same data, normalised in another way than by their own moments."""
        other = replace(self)
        other.__dict__["normalisation"] = normalisation
        return other

    def as_given(self) -> Dataset:
        """The same data, whose inputs of type float32 are not normalised."""
        other = replace(self)
        if self.inputs:
            other.__dict__["normalisations"] = {one.name: None for one in self.inputs}
            return other
        channels = self.input_shape[0]
        return self.with_normalisation(
            Normalisation("float32", (0.0,) * channels, (1.0,) * channels)
        )

    def with_input_names(self, names: Sequence[str]) -> Dataset:
        """The same data with other names of several inputs, or in another order.

        Raises:
            InputError: when the inputs have other names, and not only positions.
        """

        def renamed(split: Split) -> Split:
            fields = in_order(fields_of(split.inputs), names, self.name)
            return Split(joined(fields), split.targets)

        return replace(self, train=renamed(self.train), test=renamed(self.test))

    def normalise(self, inputs: np.ndarray, device: torch.device | str = "cpu") -> InputTensors:
        """Return (inputs - mean) / std; images are scaled to 0..1 first, tokens are unchanged.

        Args:
            inputs: raw inputs with the dtype and the number of channels of the dataset.
            device: device on which the result is placed.

        Returns:
            (N, C, H, W) float32 in channels_last memory format, or tokens (N, L) int64; of several
            inputs a tuple.

        Raises:
            InputError: the dtype or the number of channels differs from the dataset's.
        """
        own = self.train.inputs
        if self.inputs:
            arrays = in_order(fields_of(inputs), own.dtype.names or (), self.name)
            return tuple(
                _normalised(array, self.normalisations[name], device)
                for name, array in arrays.items()
            )
        if inputs.ndim != own.ndim or inputs.shape[1] != own.shape[1] or inputs.dtype != own.dtype:
            sizes = "L" if self.vocabulary else f"{own.shape[1]}, H, W"
            raise InputError(
                "inputs that do not fit the dataset cannot be normalised",
                where=self.name,
                expected=f"(N, {sizes}) {own.dtype}",
                actual=f"{inputs.shape} {inputs.dtype}",
            )
        if self.vocabulary:
            return torch.from_numpy(inputs.copy()).to(device)
        return self.normalisation.apply(inputs, device)


def _sample_shapes(inputs: np.ndarray) -> Any:
    """The shape of a sample; of several inputs the shape and type of each by name."""
    fields = fields_of(inputs).items()
    several = [f"{name} {array.shape[1:]} {array.dtype}" for name, array in fields]
    return several or inputs.shape[1:]


def _normalisation_of(inputs: np.ndarray, where: str, codes: int = 0) -> Normalisation:
    """The moments of training inputs (N, C, ...) by channel; the last `codes` stay as they are."""
    mean, std = moments_of(_as_maps(inputs))
    if not std.any():
        raise InputError(
            "the training inputs are constant",
            where=where,
            expected="at least two different values in a channel",
        )
    std = np.where(std == 0, 1.0, std)
    if codes:
        mean[-codes:], std[-codes:] = 0.0, 1.0
    return Normalisation(inputs.dtype.name, tuple(mean.tolist()), tuple(std.tolist()))


def _normalised(
    inputs: np.ndarray, normalisation: Normalisation | None, device: torch.device | str
) -> torch.Tensor:
    """One of several inputs as the network reads it; those without a normalisation as they are."""
    if normalisation is None:
        return torch.from_numpy(inputs.copy()).to(device)
    normalised = normalisation.apply(_as_maps(inputs), device)
    return normalised if inputs.ndim == 4 else normalised.reshape(inputs.shape).contiguous()


def _as_maps(inputs: np.ndarray) -> np.ndarray:
    """Inputs (N, C, ...) as (N, C, H, W)."""
    return inputs if inputs.ndim == 4 else inputs.reshape(*inputs.shape[:2], -1, 1)


def _check_names(classes: tuple[str, ...], where: str) -> None:
    """Refuse names of classes that a file cannot hold, or that do not tell the classes apart."""
    if len(set(classes)) < len(classes):
        name = next(name for name in classes if classes.count(name) > 1)
        raise InputError("two classes have the same name", where=where, actual=name)
    wrong = [name for name in classes if any("\ud800" <= c <= "\udfff" for c in name)]
    if wrong:
        raise InputError(
            "the name of a class is not text",
            where=where,
            expected="characters that UTF-8 can hold",
            actual=ascii(wrong[0]),
            mend="rename the class; a folder's name may have been written in another encoding",
        )


def _check_targets(targets: np.ndarray, classes: int, where: str) -> None:
    if targets.dtype == np.int64:
        check_labels(targets.ravel(), classes, where)
    elif not np.isfinite(targets).all():
        raise InputError("a target is not finite", where=where, expected="no NaN or infinity")
    elif targets.ndim == 3:
        present = targets[targets[..., 0] >= 0]
        check_labels(np.append(present[:, 0], 0).astype(np.int64), classes, where)
        if (present[:, 1:3] >= present[:, 3:5]).any():
            raise InputError(
                "a box is empty", where=where, expected="left < right and top < bottom"
            )


def split_train(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide training samples at random, such as into those for weights and for architectures.

    Args:
        split: the samples to divide.
        fraction: fraction of the samples in the first part, between 0 and 1.
        seed: determines the division.

    Returns:
        The first part, of `fraction` times the number of samples (rounded), and the remaining
        samples; both keep the order of `split`.

    Raises:
        InputError: one of the parts would be empty.
    """
    first = round(fraction * len(split)) if 0 < fraction < 1 else 0
    if not 0 < first < len(split):
        raise InputError(
            f"cannot divide {len(split)} training samples",
            where="fraction",
            expected="a number between 0 and 1 that leaves samples in both parts",
            actual=fraction,
        )
    order = seeded_rng(seed, "parts").permutation(len(split))
    return split.take(np.sort(order[:first])), split.take(np.sort(order[first:]))
