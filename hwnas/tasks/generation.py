"""Generation of images: networks learn to make images like those of a dataset.

Networks are trained as the decoders of variational autoencoders (`hwnas.ops.encoder`), with a
discriminator beside them where one is asked for (`hwnas.training.adversary`). They are judged by
the Fréchet distance between images that they make of standard normal vectors and real images that
were not trained on (`hwnas.tasks.frechet`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwnas.data.formats import IMAGE_GENERATION, seeded_rng
from hwnas.data.latents import scaled_images
from hwnas.ops.encoder import Decoded
from hwnas.tasks.base import Meter, Task
from hwnas.tasks.frechet import Features, frechet_distance, total_variance

REAL_IMAGES = 4000
"""Training images, at most, that decide how features are decorrelated."""
LEAST_VARIANCE = 1e-6
"""Bounds the likelihood of images that are decoded without an error."""


class FrechetMeter:
    """The Fréchet distance of generated images to real ones, and the share that it leaves.

    The score is 1 - d^2 / v, at least 0, where v is the total variance of the real images'
    features: 1 where the features have the same means and covariances, and 0 for the best single
    image. So it says of distributions what R2 says of values.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        self._generated: list[Tensor] = []
        self._real: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add generated images (N, C, H, W), 0 to 1, and as many real ones uint8."""
        self._generated.append(self._features(outputs.clamp(0, 1)))
        self._real.append(self._features(scaled_images(targets)))

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        generated, real = torch.cat(self._generated), torch.cat(self._real)
        distance, variance = frechet_distance(generated, real), total_variance(real)
        share = distance / variance if variance else 1.0
        return {
            "frechet_score": max(0.0, 1 - share),
            "frechet_distance": distance,
            "feature_variance": variance,
        }


class ImageGeneration(Task):
    """Latent vectors (N, Z, 1, 1) to images (N, C, H, W), 0 to 1.

    In training, inputs are noise and images, and outputs `Decoded`.
    """

    name = IMAGE_GENERATION
    metric = "frechet_score"
    head = "image"
    input_name = "latents"
    output_name = "images"

    @cached_property
    def features(self) -> Features:
        """The features by which images are compared, decorrelated by training images."""
        images = self.dataset.train.targets
        order = seeded_rng(0, "real images").permutation(len(images))
        chosen = images[np.sort(order[:REAL_IMAGES])]
        return Features(scaled_images(torch.from_numpy(chosen)))

    def loss(self, outputs: Any, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the negative evidence lower bound for each value of an image, in nats.

        The likelihood of an image is normal around the decoded one, with the variance, common to
        all pixels, that is best for the batch: the mean squared error (Rybkin, Daniilidis & Levine,
        "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021, arXiv 2006.13202).
        Constants are left out.

        Args:
            outputs: `Decoded`.
            targets: images (N, C, H, W) uint8.
            label_smoothing: is ignored.
        """
        assert isinstance(outputs, Decoded)
        error = (outputs.images - scaled_images(targets)).square().mean()
        likelihood = 0.5 * error.clamp_min(LEAST_VARIANCE).log()
        mean, log_variance = outputs.means, outputs.log_variances
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return likelihood + divergence.mean() / targets[0].numel()

    def constant_score(self, targets: np.ndarray) -> float:
        """Return 0, which the best single image reaches."""
        return 0.0

    def meter(self) -> Meter:
        return FrechetMeter(self.features)
