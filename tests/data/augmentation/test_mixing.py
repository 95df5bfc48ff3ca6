"""Mixed samples: mixup by its equation, rectangles by their pixels, and the loss of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.config import TaskConfig
from hwnas.data import Augmentation, Batches, Dataset, Split
from hwnas.data.augmentation.mixing import cut_and_mixed, mixed_up
from hwnas.tasks import task_of


def test_mixup_is_its_equation() -> None:
    samples, targets = torch.randn(5, 2, 3, 3), torch.tensor([0, 1, 2, 1, 0])
    mixed, found = mixed_up(samples, targets, 3, 0.4, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    share, partner = rng.beta(0.4, 0.4), rng.permutation(5)
    one_hot = np.eye(3)[targets]
    np.testing.assert_allclose(
        mixed, share * samples.numpy() + (1 - share) * samples.numpy()[partner], rtol=1e-5
    )
    np.testing.assert_allclose(found, share * one_hot + (1 - share) * one_hot[partner], rtol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_classes_of_cut_images_have_the_share_of_their_pixels(seed: int) -> None:
    """Each image has the number of its class in every pixel."""
    targets = torch.tensor([0, 1, 2, 3])
    images = targets[:, None, None, None].float().expand(-1, 2, 9, 11)
    mixed, found = cut_and_mixed(images, targets, 4, 1.0, np.random.default_rng(seed))
    for class_ in range(4):
        pixels = (mixed == class_).float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(found[:, class_], pixels)


def test_the_loss_of_a_mixed_batch_is_the_mean_of_both_losses(rng) -> None:
    inputs = rng.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)
    split = Split(inputs, rng.integers(0, 3, 40))
    data = Dataset("made up", ("a", "b", "c"), split, split)
    augment = Augmentation(mixup=1.0, cutmix=1.0)
    batches = Batches(split, data, 8, 0, augment=augment)
    logits = torch.from_numpy(rng.standard_normal((8, 3)))
    task, weighted = task_of(data), task_of(data, TaskConfig(class_weights="balanced"))
    for step in range(4):
        images, shares = batches.batch(step)
        assert images.shape == (8, 1, 6, 6)
        assert shares.shape == (8, 3)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
        expected = -(shares.double() * logits.log_softmax(dim=1)).sum(dim=1).mean()
        assert task.loss(logits, shares.double()).item() == pytest.approx(expected.item())
        assert torch.isfinite(weighted.loss(logits.float(), shares))
    again = Batches(split, data, 8, 0, augment=augment).batch(3)
    assert torch.equal(again[0], images)
    assert torch.equal(again[1], shares)
