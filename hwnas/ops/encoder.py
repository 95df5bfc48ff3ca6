"""Training of generators as the decoders of variational autoencoders.

Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv 1312.6114): an encoder finds
for each image x a normal distribution q(z|x) of latent vectors, a decoder makes an image of a
vector that is drawn from it, and both are trained on a bound of the images' likelihood. Once they
are trained, the decoder alone makes new images of standard normal vectors.

Shapes: N samples, Z latent values, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hwnas.ops.parts import sequential

WIDTH, FEATURES, SIDE = 16, 64, 7
"""Channels of the first convolution, length of the last hidden vector, and the largest side of the
map that it is computed from."""


class Decoded(NamedTuple):
    """What a generator puts out in training.

    Attributes:
        images: decoded images (N, C, H, W), 0 to 1.
        means: of q(z|x), (N, Z).
        log_variances: logarithms of the variances of q(z|x), (N, Z).
    """

    images: Tensor
    means: Tensor
    log_variances: Tensor


class Encoder(nn.Module):
    """A small convolutional network, the same for every decoder, which is not deployed.

    The means of q(z|x) are normalised over a batch and scaled by a learned vector, as in Zhu et
    al., "A Batch Normalized Inference Network Keeps the KL Vanishing Away", ACL 2020 (arXiv
    2004.12585), without their shift: so standard normal vectors are in the middle of those that the
    decoder has seen, after few steps of training too.

    Args:
        channels: of the images.
        latents: Z.
    """

    def __init__(self, channels: int, latents: int) -> None:
        super().__init__()
        self.layers = sequential(
            conv1=nn.Conv2d(channels, WIDTH, 3, 2, 1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(WIDTH, 2 * WIDTH, 3, 2, 1),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(SIDE),
            flat=nn.Flatten(),
            linear=nn.Linear(2 * WIDTH * SIDE**2, FEATURES),
            relu3=nn.ReLU(),
            moments=nn.Linear(FEATURES, 2 * latents),
        )
        self.norm = nn.BatchNorm1d(latents, affine=False)
        self.scale = nn.Parameter(torch.ones(latents))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, Z) of q(z|x) of images (N, C, H, W), 0 to 1."""
        mean, log_variance = self.layers(images).chunk(2, dim=1)
        return self.norm(mean) * self.scale, log_variance


def decoded(decode: Callable[[Tensor], Tensor], encoder: nn.Module | None, inputs: Any) -> Any:
    """Decode latent vectors, or encode images and decode what was found.

    Args:
        decode: makes images (N, C, H, W) of latent vectors (N, Z, 1, 1).
        encoder: an `Encoder`; only needed for training batches.
        inputs: latent vectors, or a training batch: a tuple of noise (N, Z, 1, 1) and images.

    Returns:
        Images for latent vectors, `Decoded` for a training batch.
    """
    if not isinstance(inputs, tuple):
        return decode(inputs)
    noise, images = inputs
    assert encoder is not None, "a network without its encoder is not trained"
    mean, log_variance = encoder(images)
    deviation = torch.exp(0.5 * log_variance)
    latents = mean.reshape(noise.shape) + deviation.reshape(noise.shape) * noise
    return Decoded(decode(latents), mean, log_variance)
