"""Generated images of geometric shapes with exact segmentation and detection targets.

Each image has one to three shapes of random kind, size and colour, which may occlude each other,
on a background of a different colour, with Gaussian noise on every pixel. Colours carry no
information about the kinds. The data depend on nothing but the image size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hwnas.data.formats import RawData, seeded_rng
from hwnas.errors import InputError

KINDS = ("circle", "square", "triangle")
TRAIN, TEST = 4000, 500
MAX_SHAPES = 3
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 128
NOISE = 12.0
"""Standard deviation of the noise; pixel values are 0 to 255."""
MIN_VISIBLE = 0.25
"""A shape is an object if at least this fraction of its area is visible."""
MIN_CONTRAST = 60
"""The colour of a shape differs from the background by this much in at least one channel."""


@dataclass(frozen=True)
class Shape:
    """A shape in an image.

    Attributes:
        kind: index into `KINDS`.
        mask: (H, W) bool, the pixels where it is visible.
        area: number of pixels of the whole shape, including occluded ones.
    """

    kind: int
    mask: np.ndarray
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the visible part in pixels."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def shapes_segmentation(side: int) -> RawData:
    """Generate images (N, 3, side, side) and the class of each pixel; 0 is the background.

    Args:
        side: width and height of the images in pixels.

    Raises:
        InputError: `side` is too small to recognise shapes, or too large.
    """

    def pixel_classes(shapes: list[Shape]) -> np.ndarray:
        target = np.zeros((side, side), np.int64)
        for shape in shapes:
            target[shape.mask] = 1 + shape.kind
        return target

    x_train, y_train = _generate_split(side, "train", TRAIN, pixel_classes)
    x_test, y_test = _generate_split(side, "test", TEST, pixel_classes)
    classes = ("background", *KINDS)
    return RawData(classes, x_train, y_train, x_test, y_test, "segmentation")


def shapes_detection(side: int) -> RawData:
    """Generate images (N, 3, side, side) and the boxes (N, MAX_SHAPES, 5) of the shapes.

    Args:
        side: width and height of the images in pixels.

    Raises:
        InputError: `side` is too small to recognise shapes, or too large.
    """

    def boxes(shapes: list[Shape]) -> np.ndarray:
        target = np.full((MAX_SHAPES, 5), -1, np.float32)
        objects = [shape for shape in shapes if shape.mask.sum() >= MIN_VISIBLE * shape.area]
        for row, shape in zip(target, objects, strict=False):
            row[:] = (shape.kind, *shape.box)
        return target

    x_train, y_train = _generate_split(side, "train", TRAIN, boxes)
    x_test, y_test = _generate_split(side, "test", TEST, boxes)
    return RawData(KINDS, x_train, y_train, x_test, y_test, "detection")


def _generate_split(
    side: int, name: str, count: int, target_of: Callable[[list[Shape]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Generate the images (count, 3, side, side) uint8 of a split, and their targets."""
    if not SMALLEST_IMAGE <= side <= LARGEST_IMAGE:
        raise InputError(
            "images of shapes cannot be generated at this size",
            where="image_size",
            expected=f"{SMALLEST_IMAGE} to {LARGEST_IMAGE}",
            actual=side,
        )
    rng = seeded_rng(0, f"shapes {name}", side)
    images = np.empty((count, 3, side, side), np.uint8)
    targets = []
    for image in images:
        image[:], shapes = _draw_image(side, rng)
        targets.append(target_of(shapes))
    return images, np.stack(targets)


def _draw_image(side: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Shape]]:
    """Draw an image (3, side, side) uint8; return it with its visible shapes."""
    background = rng.integers(0, 256, 3)
    image = np.empty((3, side, side))
    image[:] = background[:, None, None]
    shapes: list[Shape] = []
    for _ in range(rng.integers(1, MAX_SHAPES + 1)):
        kind = int(rng.integers(len(KINDS)))
        mask = _mask(kind, side, rng)
        image[:, mask] = _colour(background, rng)[:, None]
        # A later shape occludes earlier ones.
        shapes = [Shape(s.kind, s.mask & ~mask, s.area) for s in shapes]
        shapes.append(Shape(kind, mask, int(mask.sum())))
    image += NOISE * rng.standard_normal(image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), [s for s in shapes if s.mask.any()]


def _colour(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a random colour (3,) that differs clearly from the background's."""
    while True:
        colour: np.ndarray = rng.integers(0, 256, 3)
        if np.abs(colour - background).max() >= MIN_CONTRAST:
            return colour


def _mask(kind: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return the pixels (side, side) bool of a shape with random size and place in the image."""
    radius = rng.uniform(side / 8, side / 4)
    x, y = rng.uniform(radius, side - radius, 2)
    rows, columns = np.mgrid[:side, :side] + 0.5
    across, down = columns - x, rows - y
    mask: np.ndarray
    match KINDS[kind]:
        case "circle":
            mask = across**2 + down**2 <= radius**2
        case "square":
            mask = np.maximum(np.abs(across), np.abs(down)) <= radius
        case _:  # an upright triangle, as wide at its base as it is high
            mask = (np.abs(across) <= (down + radius) / 2) & (down <= radius)
    return mask
