"""Generated images of geometric shapes, whose truth is known because they were drawn from it.

Each image has one to three shapes of different kinds, sizes and colours, which may cover each
other, on a background of another colour; noise is added to all. A colour says nothing of a kind.
What is generated is a function of the image size alone: everybody has the same data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hwnas.data.formats import RawData, seeded_rng
from hwnas.errors import InputError

KINDS = ("circle", "square", "triangle")
TRAIN, TEST = 4000, 500
MOST_SHAPES = 3
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 128
NOISE = 12.0
"""Standard deviation of the noise, of 255."""
SEEN = 0.25
"""Least share of a shape that is seen, for it to count as an object."""
CONTRAST = 60
"""Least distance of a shape's colour from the background's, in the channel where it is largest."""


@dataclass(frozen=True)
class Shape:
    """A shape at a place.

    Attributes:
        kind: index into `KINDS`.
        mask: (H, W) bool, where it is seen.
        area: pixels of the whole shape.
    """

    kind: int
    mask: np.ndarray
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what is seen."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def shapes_segmentation(side: int) -> RawData:
    """Images (N, 3, side, side) and the class of each pixel, 0 the background.

    Raises:
        InputError: images too small to tell shapes apart, or too large.
    """

    def pixel_classes(shapes: list[Shape]) -> np.ndarray:
        target = np.zeros((side, side), np.int64)
        for shape in shapes:
            target[shape.mask] = 1 + shape.kind
        return target

    x_train, y_train = _drawn(side, "train", TRAIN, pixel_classes)
    x_test, y_test = _drawn(side, "test", TEST, pixel_classes)
    classes = ("background", *KINDS)
    return RawData(classes, x_train, y_train, x_test, y_test, "segmentation")


def shapes_detection(side: int) -> RawData:
    """Images (N, 3, side, side) and the boxes (N, MOST_SHAPES, 5) of the shapes.

    Raises:
        InputError: images too small to tell shapes apart, or too large.
    """

    def boxes(shapes: list[Shape]) -> np.ndarray:
        target = np.full((MOST_SHAPES, 5), -1, np.float32)
        objects = [shape for shape in shapes if shape.mask.sum() >= SEEN * shape.area]
        for row, shape in zip(target, objects, strict=False):
            row[:] = (shape.kind, *shape.box)
        return target

    x_train, y_train = _drawn(side, "train", TRAIN, boxes)
    x_test, y_test = _drawn(side, "test", TEST, boxes)
    return RawData(KINDS, x_train, y_train, x_test, y_test, "detection")


def _drawn(
    side: int, name: str, count: int, target_of: Callable[[list[Shape]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 3, side, side) uint8 of a split, and the targets of what is seen in them."""
    if not SMALLEST_IMAGE <= side <= LARGEST_IMAGE:
        raise InputError(
            "shapes are not drawn at this size",
            where="image_size",
            expected=f"{SMALLEST_IMAGE} to {LARGEST_IMAGE}",
            actual=side,
        )
    rng = seeded_rng(0, f"shapes {name}", side)
    images = np.empty((count, 3, side, side), np.uint8)
    targets = []
    for image in images:
        image[:], shapes = _drawing(side, rng)
        targets.append(target_of(shapes))
    return images, np.stack(targets)


def _drawing(side: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Shape]]:
    background = rng.integers(0, 256, 3)
    image = np.empty((3, side, side))
    image[:] = background[:, None, None]
    shapes: list[Shape] = []
    for _ in range(rng.integers(1, MOST_SHAPES + 1)):
        kind = int(rng.integers(len(KINDS)))
        mask = _mask(kind, side, rng)
        image[:, mask] = _colour(background, rng)[:, None]
        # What is covered by a later shape is not seen.
        shapes = [Shape(s.kind, s.mask & ~mask, s.area) for s in shapes]
        shapes.append(Shape(kind, mask, int(mask.sum())))
    image += NOISE * rng.standard_normal(image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), [s for s in shapes if s.mask.any()]


def _colour(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random colour (3,) that is not the background's."""
    while True:
        colour = rng.integers(0, 256, 3)
        if np.abs(colour - background).max() >= CONTRAST:
            return colour


def _mask(kind: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side) bool: a shape of a random size that lies within the image."""
    radius = rng.uniform(side / 8, side / 4)
    x, y = rng.uniform(radius, side - radius, 2)
    rows, columns = np.mgrid[:side, :side] + 0.5
    across, down = columns - x, rows - y
    match KINDS[kind]:
        case "circle":
            return across**2 + down**2 <= radius**2
        case "square":
            return np.maximum(np.abs(across), np.abs(down)) <= radius
    # An upright triangle: as wide at the bottom as it is high.
    return (np.abs(across) <= (down + radius) / 2) & (down <= radius)
