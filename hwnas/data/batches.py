"""Training batches as a pure function of the seed and the step, and batches for evaluation.

Because a batch depends on nothing but the seed and the step, a run can be resumed at any step
without saving the state of a random number generator.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hwnas.data.augmentation import Augmentation
from hwnas.data.dataset import Dataset, Split
from hwnas.data.formats import IMAGE_GENERATION, seeded_rng
from hwnas.data.inputs import InputTensors
from hwnas.data.latents import scaled_images
from hwnas.data.normalisation import channels_last
from hwnas.errors import InputError


class Batches:
    """Shuffled training batches as a pure function of the step.

    Attributes:
        steps_per_epoch: number of full batches in the split. Samples that do not fill a last
            batch are skipped; since the order is random, they differ from epoch to epoch.
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
        """Check the arguments; no sample is read yet.

        Args:
            split: the samples to draw from, such as a part of `dataset.train`.
            dataset: its mean and standard deviation normalise the inputs.
            batch_size: number of samples in a batch.
            seed: determines the order of each epoch and the augmentation of each step.
            augment: augmentation that suits the dataset; None leaves the samples unchanged.
            device: device on which the batches are placed.

        Raises:
            InputError: the split is smaller than a batch, the seed is negative, or the augmentation
                does not suit the data, see `Augmentation.require_suits`.
        """
        _check_batch_size(batch_size)
        if len(split) < batch_size:
            raise InputError(
                "the batch is larger than the training data",
                where="batch_size",
                expected=f"at most {len(split)}",
                actual=batch_size,
            )
        if augment == Augmentation():
            augment = None
        if augment is not None:
            augment.require_suits(dataset)
        seeded_rng(seed, "order")  # reports a bad seed now instead of in the first step
        self.steps_per_epoch = len(split) // batch_size
        self._split = split
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._device = device
        self._order: tuple[int, np.ndarray] | None = None  # the latest epoch and its permutation

    def batch(self, step: int) -> tuple[InputTensors, torch.Tensor]:
        """Return the batch of a step.

        Args:
            step: step of the training, counted from 0 over all epochs.

        Returns:
            The inputs, normalised by `Dataset.normalise` and augmented, and their targets; the
            first dimension of both is the batch size. Several inputs are a tuple. Samples that are
            mixed have probabilities of classes (N, K) as targets. Where images are to be generated,
            the inputs are what their encoder reads: noise of the shape of the latent vectors, which
            is drawn for each step, and the images (N, C, H, W), 0 to 1.

        Raises:
            InputError: the step is negative.
        """
        if step < 0:
            raise InputError("the step is negative", where="step", expected=">= 0", actual=step)
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self._batch_size
        indices = self._epoch_order(epoch)[start : start + self._batch_size]
        if self._dataset.task == IMAGE_GENERATION:
            return self._noise_and_images(indices, step)
        inputs = self._dataset.normalise(self._split.inputs[indices], self._device)
        targets = torch.from_numpy(self._split.targets[indices]).to(self._device)
        if self._augment is not None and isinstance(inputs, torch.Tensor):
            rng = seeded_rng(self._seed, "augmentation", step)
            inputs, targets = self._augment.apply_to_batch(inputs, targets, self._dataset, rng)
            inputs = channels_last(inputs) if inputs.ndim == 4 else inputs
        return inputs, targets

    def _noise_and_images(
        self, indices: np.ndarray, step: int
    ) -> tuple[InputTensors, torch.Tensor]:
        """What an encoder reads of some samples, and their images as they are, (N, C, H, W)."""
        shape = len(indices), *self._dataset.input_shape
        drawn = seeded_rng(self._seed, "noise", step).standard_normal(shape, dtype=np.float32)
        images = torch.from_numpy(self._split.targets[indices]).to(self._device)
        noise = torch.from_numpy(drawn).to(self._device)
        return (noise, channels_last(scaled_images(images))), images

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """Return the permutation (N,) of an epoch; the latest is cached for the next step."""
        order = self._order
        if order is None or order[0] != epoch:
            permutation = seeded_rng(self._seed, "order", epoch).permutation(len(self._split))
            order = self._order = (epoch, permutation)
        return order[1]


def evaluation_batches(
    split: Split, dataset: Dataset, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[InputTensors, torch.Tensor]]:
    """Yield all samples in order, normalised but not augmented; the last batch may be smaller.

    Args:
        split: the samples.
        dataset: its mean and standard deviation normalise the inputs.
        batch_size: largest number of samples in a batch.
        device: device on which the batches are placed.

    Returns:
        An iterator over pairs of inputs and targets as `Batches.batch` returns them.

    Raises:
        InputError: the batch size is below 1.
    """
    _check_batch_size(batch_size)

    def batches() -> Iterator[tuple[InputTensors, torch.Tensor]]:
        for start in range(0, len(split), batch_size):
            part = slice(start, start + batch_size)
            inputs = dataset.normalise(split.inputs[part], device)
            targets = torch.from_numpy(split.targets[part].copy()).to(device)
            yield inputs, targets

    return batches()


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(
            "the batch size is too small", where="batch_size", expected=">= 1", actual=batch_size
        )
