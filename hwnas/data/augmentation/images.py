"""Augmentation of images whose targets stay as they are.

Shapes: N images, C channels, H rows, W columns. Images are normalised, so that zero is the mean of
the training data and one is a standard deviation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RAND_AUGMENT_OPERATIONS = 2
"""Operations that follow each other, as in most experiments of RandAugment."""
STRONGEST = 30
"""Largest strength of RandAugment."""
OPERATIONS = (
    "identity",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "brightness",
    "contrast",
    "sharpness",
)
"""Those of RandAugment that do not need pixels of whole numbers from 0 to 255."""
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 1 / 0.3)
"""Share of the image that random erasing covers, and height divided by width of what it covers."""


def draw(rng: np.random.Generator, low: float, high: float, count: int, like: Tensor) -> Tensor:
    """Return uniform random numbers (count,) in the type and on the device of a tensor."""
    return torch.from_numpy(rng.uniform(low, high, count)).to(like)


def randint(rng: np.random.Generator, high: int, count: int, like: Tensor) -> Tensor:
    """Return random whole numbers (count,) below `high`, on the device of a tensor."""
    return torch.from_numpy(rng.integers(high, size=count)).to(like.device)


def cropped(images: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    """Pad every side with zeros and crop a random window of the original size."""
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    # All crops as a view (N, C, 2 * padding + 1, 2 * padding + 1, H, W).
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = (randint(rng, 2 * padding + 1, count, images) for _ in range(2))
    return crops[torch.arange(count, device=images.device), :, top, left]


def flipped(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image horizontally with probability one half."""
    is_flipped = randint(rng, 2, len(images), images).bool()[:, None, None, None]
    return torch.where(is_flipped, images.flip(3), images)


def cut_out(images: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Set a square around a random centre to zero (DeVries & Taylor, arXiv 1708.04552)."""
    count, _, height, width = images.shape
    rows = _within(randint(rng, height, count, images) - side // 2, side, height)
    columns = _within(randint(rng, width, count, images) - side // 2, side, width)
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images * ~hole  # masked_fill is several times slower


def erased(images: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """Fill a random rectangle of some images with noise.

    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020 (arXiv 1708.04896), algorithm 1,
    with values of the standard normal distribution, which normalised images have.
    """
    count, _, height, width = images.shape
    area = draw(rng, *ERASED_AREA, count, images) * height * width
    low, high = map(math.log, ERASED_ASPECT)
    aspect = draw(rng, low, high, count, images).exp()
    sides = ((area * aspect).sqrt(), height), ((area / aspect).sqrt(), width)
    within = []
    for side, length in sides:
        covered = side.round().clamp(1, length)
        start = (draw(rng, 0, 1, count, images) * (length - covered + 1)).floor()
        within.append(_within(start, covered[:, None], length))
    is_erased = draw(rng, 0, 1, count, images) < probability
    hole = within[0][:, None, :, None] & within[1][:, None, None, :]
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32)).to(images)
    return torch.where(hole & is_erased[:, None, None, None], noise, images)


def rand_augmented(images: Tensor, strength: int, rng: np.random.Generator) -> Tensor:
    """Apply random operations of one strength.

    Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
    NeurIPS 2020 (arXiv 1909.13719), with two of `OPERATIONS` for each image. At the largest
    strength of 30 they are rotations of 30 degrees, shears of 0.3, translations of 0.3 sides,
    brightness of one standard deviation more or less, and contrast and sharpness of 1.9 or 0.1
    times.
    """
    share = strength / STRONGEST
    for _ in range(RAND_AUGMENT_OPERATIONS):
        count = len(images)
        chosen = randint(rng, len(OPERATIONS), count, images)
        amount = share * (2.0 * randint(rng, 2, count, images) - 1).to(images)
        amounts = {
            name: torch.where(chosen == place, amount, torch.zeros_like(amount))
            for place, name in enumerate(OPERATIONS)
        }
        images = _coloured(_moved(images, amounts), amounts)
    return images


def _moved(images: Tensor, amounts: dict[str, Tensor]) -> Tensor:
    """Rotate, shear and translate each image; what comes from outside is zero."""
    angle = amounts["rotate"] * math.pi / 6
    ratio = images.shape[3] / images.shape[2]  # coordinates run from -1 to 1 along both sides
    shear_x, shear_y = (0.3 * amounts[name] for name in ("shear_x", "shear_y"))
    shift_x, shift_y = (0.6 * amounts[name] for name in ("translate_x", "translate_y"))
    first = torch.stack([angle.cos(), shear_x - angle.sin() / ratio, shift_x], dim=1)
    second = torch.stack([shear_y + angle.sin() * ratio, angle.cos(), shift_y], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), False)
    moved = F.grid_sample(images, grid, align_corners=False)
    # Images that stay are not interpolated.
    kinds = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    is_moved = torch.stack([amounts[name] for name in kinds]).abs().sum(dim=0) > 0
    return torch.where(is_moved[:, None, None, None], moved, images)


def _coloured(images: Tensor, amounts: dict[str, Tensor]) -> Tensor:
    """Change brightness, contrast and sharpness of each image."""
    brightness, contrast, sharpness = (
        amounts[name][:, None, None, None] for name in ("brightness", "contrast", "sharpness")
    )
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + 0.9 * contrast) + brightness
    channels = images.shape[1]
    blur = images.new_tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(channels, 1, 3, 3)
    if min(images.shape[2:]) > 1:
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        smooth = F.conv2d(padded, blur, groups=channels)
        images = images + 0.9 * sharpness * (images - smooth)
    return images


def _within(start: Tensor, length: int | Tensor, size: int) -> Tensor:
    """Return (N, size) bool: the places that an interval of each image covers."""
    position = torch.arange(size, device=start.device)
    return (position >= start[:, None]) & (position < start[:, None] + length)
