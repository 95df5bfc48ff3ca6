"""Random augmentation of training images, a whole batch at a time.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from hwnas.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of normalised training images; 0 or False turns each part off.

    Attributes:
        crop_padding: pad every side with this many zero pixels, then crop a random window of the
            original size.
        flip: mirror each image horizontally with probability one half.
        cutout: set a square with this side length (pixels) around a random centre to zero; the
            square is clipped at the image border (DeVries & Taylor 2017, arXiv:1708.04552).

    Raises:
        InputError: a size is negative.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        """Check that no size is negative."""
        for key, value in (("crop_padding", self.crop_padding), ("cutout", self.cutout)):
            if value < 0:
                raise InputError(
                    "the size is negative", where=key, expected=">= 0 pixels", actual=value
                )

    def apply(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment normalised images on the device that holds them.

        The random numbers are drawn on the CPU, so every device sees the same augmentation.

        Args:
            images: (N, C, H, W), normalised, so that zero is the mean of the training data.
            rng: source of all random choices.

        Returns:
            The augmented images, of the same shape.
        """
        count, _, height, width = images.shape

        def draw(high: int) -> torch.Tensor:
            return torch.from_numpy(rng.integers(high, size=count)).to(images.device)

        if self.crop_padding:
            padded = F.pad(images, (self.crop_padding,) * 4)
            # All crops as a view (N, C, 2 * padding + 1, 2 * padding + 1, H, W).
            crops = padded.unfold(2, height, 1).unfold(3, width, 1)
            top, left = draw(2 * self.crop_padding + 1), draw(2 * self.crop_padding + 1)
            images = crops[torch.arange(count, device=images.device), :, top, left]
        if self.flip:
            flipped = draw(2).bool()[:, None, None, None]
            images = torch.where(flipped, images.flip(3), images)
        if self.cutout:
            rows = self._within_cutout(draw(height), height)
            columns = self._within_cutout(draw(width), width)
            hole = rows[:, None, :, None] & columns[:, None, None, :]
            images = images * ~hole  # masked_fill is several times slower
        return images

    def _within_cutout(self, centre: torch.Tensor, length: int) -> torch.Tensor:
        """Return (N, length) bool: the rows or columns that each image's square covers."""
        position = torch.arange(length, device=centre.device)
        start = centre[:, None] - self.cutout // 2
        return (position >= start) & (position < start + self.cutout)
