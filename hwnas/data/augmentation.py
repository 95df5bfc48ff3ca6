"""Random changes of training images, a whole batch at a time.

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
    """Random changes of normalised training images; each is off at 0 or False.

    Attributes:
        crop_padding: pad each side by this many zeros, then crop at random to the old size.
        flip: mirror left and right with probability one half.
        cutout: zero a square of this side (pixels) around a random centre; parts beyond the
            border are lost (DeVries & Taylor 2017, arXiv:1708.04552).
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        """Refuse negative sizes."""
        for key, value in (("crop_padding", self.crop_padding), ("cutout", self.cutout)):
            if value < 0:
                raise InputError("negative", where=key, expected=">= 0 pixels", actual=value)

    def apply(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment normalised images (N, C, H, W), on whatever device they are.

        The random numbers are drawn on the CPU, so every device sees the same augmentation.
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
        """Return (N, length) bool: which rows or columns the square covers."""
        position = torch.arange(length, device=centre.device)
        start = centre[:, None] - self.cutout // 2
        return (position >= start) & (position < start + self.cutout)
