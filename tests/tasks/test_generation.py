"""The task of generating images: its loss, its score, and the data that it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.config import TaskConfig
from hwnas.data import Batches, load_dataset
from hwnas.errors import InputError
from hwnas.ops.encoder import Decoded
from hwnas.tasks import task_of
from hwnas.tasks.frechet import frechet_distance, total_variance


@pytest.fixture(scope="module")
def task():
    return task_of(load_dataset(latents=5, train_limit=200, test_limit=100))


def test_the_loss_is_the_negative_bound_of_the_likelihood(task) -> None:
    """By PyTorch's distributions in float64, but for a constant and the number of values."""
    rng = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 256, (4, 1, 6, 5), generator=rng, dtype=torch.uint8)
    images = torch.rand((4, 1, 6, 5), generator=rng, dtype=torch.float64)
    mean = torch.randn((4, 5), generator=rng, dtype=torch.float64)
    log_variance = torch.randn((4, 5), generator=rng, dtype=torch.float64)
    found = task.loss(Decoded(images, mean, log_variance), targets)
    real = targets.double() / 255
    deviation = (images - real).square().mean().sqrt()
    likelihood = torch.distributions.Normal(images, deviation).log_prob(real).sum(dim=(1, 2, 3))
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(dim=1)
    constant = 0.5 * (np.log(2 * np.pi) + 1)
    expected = -(likelihood - divergence).mean() / 30 - constant
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_images_that_are_decoded_without_an_error_have_a_finite_loss(task) -> None:
    targets = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    none = torch.zeros(2, 3)
    loss = task.loss(Decoded(torch.zeros(2, 1, 4, 4), none, none), targets)
    assert torch.isfinite(loss)


def test_real_images_score_one_and_the_best_single_image_zero(task) -> None:
    real = torch.from_numpy(task.dataset.test.targets)
    pixels = real.float() / 255
    assert task.score([(pixels, real)]) == pytest.approx(1, abs=1e-6)
    same = pixels.mean(dim=0, keepdim=True).expand_as(pixels)
    assert task.score([(same, real)]) == task.constant_score(task.dataset.test.targets) == 0


def test_the_metrics_are_those_of_all_batches_together(task) -> None:
    real = torch.from_numpy(task.dataset.test.targets)
    made = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) * 0.2
    made += real.float() / 255 * 0.8
    found = task.metrics(zip(made.split(30), real.split(30), strict=True))
    features = task.features(made), task.features(real.float() / 255)
    assert found["frechet_distance"] == pytest.approx(frechet_distance(*features))
    assert found["feature_variance"] == pytest.approx(total_variance(features[1]))
    share = found["frechet_distance"] / found["feature_variance"]
    assert found["frechet_score"] == pytest.approx(1 - share)


def test_training_batches_are_noise_and_images_and_a_function_of_the_step(task) -> None:
    dataset = task.dataset
    batches = Batches(dataset.train, dataset, 16, 3, augment=None)
    (noise, images), targets = batches.batch(7)
    assert noise.shape == (16, 5, 1, 1)
    torch.testing.assert_close(images, targets.float() / 255)
    again = Batches(dataset.train, dataset, 16, 3, augment=None).batch(7)
    assert torch.equal(again[0][0], noise)
    assert not torch.equal(batches.batch(8)[0][0], noise)


def test_a_choice_of_scores_and_augmentation_of_images_are_refused(task) -> None:
    from hwnas.data import Augmentation

    with pytest.raises(InputError, match="image-generation has one score"):
        task_of(task.dataset, TaskConfig(class_weights="balanced"))
    with pytest.raises(InputError, match="does not suit latents"):
        Batches(task.dataset.train, task.dataset, 16, 0, augment=Augmentation(flip=True))
