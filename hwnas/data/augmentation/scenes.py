"""Random scale, crop and flip of images together with their boxes or maps of classes.

Shapes: N images, C channels, H rows, W columns, B boxes. A point (x, y) of an image, in pixels from
its upper left corner, moves to zoom * (x - W/2) + W/2 + shift, and the same with y and H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.data.augmentation.images import draw, randint
from hwnas.data.formats import VOID

VISIBLE = 0.25
"""Least share of a box's area that has to stay in the image for the object to stay a target."""


@dataclass(frozen=True)
class Movement:
    """How each image of a batch is moved.

    Attributes:
        zoom: factor of its size, (N,); negative numbers do not occur.
        shift: pixels to the right and down, (N, 2).
        is_flipped: whether it is mirrored horizontally first, (N,) bool.
    """

    zoom: Tensor
    shift: Tensor
    is_flipped: Tensor

    @classmethod
    def drawn(
        cls, images: Tensor, scale: float, padding: int, flip: bool, rng: np.random.Generator
    ) -> Movement:
        """Draw a movement for each image.

        Args:
            images: (N, C, H, W).
            scale: largest relative change of the size.
            padding: largest shift in pixels, to which what a larger image leaves out is added.
            flip: whether half of the images are mirrored.
            rng: source of the random numbers.
        """
        count, _, height, width = images.shape
        zoom = 1 + draw(rng, -scale, scale, count, images) if scale else images.new_ones(count)
        shift = torch.stack([randint(rng, 2 * padding + 1, count, images) for _ in range(2)], 1)
        shifts = (shift - padding).to(images)
        if scale:
            room = (zoom - 1).abs()[:, None] * images.new_tensor([width, height]) / 2
            shifts = shifts + room * draw(rng, -1, 1, 2 * count, images).view(count, 2)
        is_flipped = randint(rng, 2, count, images).bool() if flip else zoom < 0
        return cls(zoom, shifts, is_flipped)

    def _grid(self, images: Tensor) -> Tensor:
        """Where each pixel of the result comes from, (N, H, W, 2), as `grid_sample` reads it."""
        height, width = images.shape[2:]
        sides = images.new_tensor([width, height]) / 2
        source = -self.shift / sides / self.zoom[:, None]
        sign = torch.where(self.is_flipped, -1.0, 1.0).to(images)
        zero = torch.zeros_like(self.zoom)
        first = torch.stack([sign / self.zoom, zero, sign * source[:, 0]], dim=1)
        second = torch.stack([zero, 1 / self.zoom, source[:, 1]], dim=1)
        return F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), False)

    def of_images(self, images: Tensor) -> Tensor:
        """Moved images, interpolated; what comes from outside is zero."""
        return F.grid_sample(images, self._grid(images), align_corners=False)

    def of_maps(self, images: Tensor, maps: Tensor) -> Tensor:
        """Moved classes of pixels (N, H, W), each of the nearest pixel; `VOID` outside."""
        known = (maps - VOID)[:, None].to(images)  # 0 is void, which is what lies outside
        grid = self._grid(images)
        moved = F.grid_sample(known, grid, mode="nearest", align_corners=False)
        return moved[:, 0].round().long() + VOID

    def of_boxes(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Moved boxes (N, B, 5), clipped to the image.

        Objects of which less than `VISIBLE` stays get the class -1.
        """
        height, width = images.shape[2:]
        corners = boxes[..., 1:].to(images)
        mirrored = torch.stack(
            [width - corners[..., 2], corners[..., 1], width - corners[..., 0], corners[..., 3]],
            dim=-1,
        )
        corners = torch.where(self.is_flipped[:, None, None], mirrored, corners)
        centre = images.new_tensor([width, height] * 2) / 2
        shift = torch.cat([self.shift, self.shift], dim=1)[:, None]
        moved = (corners - centre) * self.zoom[:, None, None] + centre + shift
        limits = images.new_tensor([width, height] * 2)
        clipped = torch.minimum(moved.clamp(min=0), limits)
        stays = _area(clipped) >= VISIBLE * _area(moved).clamp(min=1e-6)
        class_ = torch.where(stays, boxes[..., 0].to(images), images.new_tensor(-1.0))
        return torch.cat([class_[..., None], clipped], dim=-1).to(boxes.dtype)


def _area(corners: Tensor) -> Tensor:
    """The area (N, B) of boxes (N, B, 4): left, top, right, bottom."""
    return (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
