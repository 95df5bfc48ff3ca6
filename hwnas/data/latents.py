"""Datasets of images to be generated: latent vectors as inputs, and the images as targets.

Shapes: N samples, Z latent values, C channels, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hwnas.data.arrays import KIND
from hwnas.data.formats import IMAGE_CLASSIFICATION, IMAGE_GENERATION, RawData, seeded_rng
from hwnas.errors import InputError

CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
"""Names of the channels of images, by their number."""


def to_generate(raw: RawData, latents: int, where: str) -> RawData:
    """Turn images with classes into images that are to be generated.

    Args:
        raw: images (N, C, H, W) uint8; their classes are forgotten.
        latents: length Z of the latent vectors.
        where: the file or dataset, for errors.

    Returns:
        Latent vectors (N, Z, 1, 1) float32 of independent standard normal numbers, the same for
        everybody, with the images as targets. A vector and an image of the same index have nothing
        to do with each other.

    Raises:
        InputError: the samples are no images of 8 bits.
    """
    if raw.task != IMAGE_CLASSIFICATION or raw.x_train.dtype != np.uint8:
        raise InputError(
            "only images of 8 bits for each channel can be generated",
            where=f"{where}: latents",
            expected="images (N, C, H, W) uint8 with classes",
            actual=f"{raw.x_train.shape} {raw.x_train.dtype} for {raw.task.replace('-', ' ')}",
        )
    count = raw.x_train.shape[1]
    return RawData(
        CHANNELS.get(count) or tuple(f"channel {i + 1}" for i in range(count)),
        latent_vectors(len(raw.x_train), latents, "train"),
        raw.x_train,
        latent_vectors(len(raw.x_test), latents, "test"),
        raw.x_test,
        IMAGE_GENERATION,
        reading={KIND: "table", "columns": [f"z{i + 1}" for i in range(latents)]},
        notes=raw.notes,
    )


def latent_vectors(count: int, latents: int, split: str) -> np.ndarray:
    """Draw the latent vectors of a split, (count, latents, 1, 1) float32."""
    rng = seeded_rng(0, f"latents {split}")
    return rng.standard_normal((count, latents, 1, 1), dtype=np.float32)


def scaled_images(images: Tensor) -> Tensor:
    """Scale images uint8 to 0 to 1, as generators put them out."""
    return images.float() / 255
