"""Training batches as a pure function of the seed and the step, and batches for evaluation.

A run resumes at any step without saved random states.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hwnas.data.augmentation import Augmentation
from hwnas.data.dataset import Dataset, Split, channels_last
from hwnas.data.formats import seeded_rng
from hwnas.errors import InputError


class Batches:
    """Training batches as a pure function of the step.

    Attributes:
        steps_per_epoch: full batches in the split; the rest of an epoch's order is left out, and
            another part of the samples in each epoch.
    """

    def __init__(
        self,
        split: Split,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        *,
        augment: Augmentation | None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Check the arguments; nothing is drawn yet.

        Args:
            split: where the samples come from, such as a part of `dataset.train`.
            dataset: its mean and standard deviation normalise the inputs.
            batch_size: samples in a batch.
            seed: with the epoch it gives the order, with the step the augmentation.
            augment: None leaves the inputs as they are; for images of one class each.
            device: where the batches are put.

        Raises:
            InputError: a split smaller than a batch, or an augmentation larger than the images.
        """
        _check_batch_size(batch_size)
        if len(split) < batch_size:
            raise InputError(
                "batch larger than the training data",
                where="batch_size",
                expected=f"at most {len(split)}",
                actual=batch_size,
            )
        if augment == Augmentation():
            augment = None
        if augment is not None:
            _check_augmentation(augment, split)
        seeded_rng(seed, "order")  # refuses a bad seed now, not in the first step
        self.steps_per_epoch = len(split) // batch_size
        self._split = split
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._device = device
        self._order: tuple[int, np.ndarray] | None = None  # of the epoch asked for last

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs as `Dataset.normalise` makes them, and targets, of B samples.

        Raises:
            InputError: a negative step.
        """
        if step < 0:
            raise InputError("negative step", where="step", expected=">= 0", actual=step)
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self._batch_size
        indices = self._epoch_order(epoch)[start : start + self._batch_size]
        inputs = self._dataset.normalise(self._split.inputs[indices], self._device)
        if self._augment is not None:
            rng = seeded_rng(self._seed, "augmentation", step)
            inputs = channels_last(self._augment.apply(inputs, rng))
        targets = torch.from_numpy(self._split.targets[indices]).to(self._device)
        return inputs, targets

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """Return the permutation of an epoch (N,), kept because it is needed at each step."""
        order = self._order
        if order is None or order[0] != epoch:
            permutation = seeded_rng(self._seed, "order", epoch).permutation(len(self._split))
            order = self._order = (epoch, permutation)
        return order[1]


def evaluation_batches(
    split: Split, dataset: Dataset, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield all samples in order, as `Batches.batch` returns them; the last batch may be smaller.

    Raises:
        InputError: the batch size is below 1.
    """
    _check_batch_size(batch_size)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(split), batch_size):
            part = slice(start, start + batch_size)
            inputs = dataset.normalise(split.inputs[part], device)
            targets = torch.from_numpy(split.targets[part].copy()).to(device)
            yield inputs, targets

    return batches()


def _check_augmentation(augment: Augmentation, split: Split) -> None:
    """InputError unless a changed input keeps its target and shows something."""
    if split.inputs.dtype != np.uint8 or split.targets.ndim != 1:
        raise InputError(
            "only images of one class each can be augmented",
            where="crop_padding, flip, cutout",
            expected="0, false, 0",
            actual=f"{augment.crop_padding}, {augment.flip}, {augment.cutout}",
        )
    side = min(split.inputs.shape[2:])
    if max(augment.crop_padding, augment.cutout) >= side:
        raise InputError(
            "augmentation would blank whole images",
            where="crop_padding, cutout",
            expected=f"less than the side of {side} pixels",
            actual=f"{augment.crop_padding}, {augment.cutout}",
        )


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError("too small", where="batch_size", expected=">= 1", actual=batch_size)
