"""The part of a report that shows images which the trained generator made, beside real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import InputError
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.reporting.html import Html, columns, figure, picture
from hwnas.reporting.predictions import MAX_SIDE, png

COLUMNS, MOST_IMAGES = 8, 64
"""Images in a row of a sheet, and in all of its rows at most."""
GAP = 2
"""Pixels between the images of a sheet."""


@dataclass(frozen=True)
class GeneratedImages:
    """The contents of `generated_images.npz`; the module that writes the file describes its arrays.

    Attributes:
        generated: generated images (M, C, H, W) uint8 with one or three channels.
        real: as many real images.
    """

    generated: np.ndarray
    real: np.ndarray

    @classmethod
    def read(cls, path: Path) -> GeneratedImages | None:
        """Read the file; None if there is none, as in runs of other tasks.

        Raises:
            InputError: when the file is damaged.
        """
        if not path.is_file():
            return None
        arrays = read_npz_arrays(path)
        missing = {"generated", "real"} - arrays.keys()
        if missing:
            raise InputError("missing array", where=str(path), expected=min(missing))
        found = cls(arrays["generated"], arrays["real"])
        if not all(_is_shown(images) for images in (found.generated, found.real)):
            raise InputError(
                "not images that can be shown",
                where=str(path),
                expected=f"1 to {MOST_IMAGES} images uint8 with 1 or 3 channels and sides of at "
                f"most {MAX_SIDE}",
            )
        return found


def generated_figures(images: GeneratedImages | None) -> list[Html]:
    """The sheets of generated and of real images side by side; nothing in runs of other tasks."""
    if images is None:
        return []
    groups = (
        (
            "Generated images",
            "Made by the trained network of random vectors, without any selection.",
            images.generated,
        ),
        ("Real images", "Test images, which were not trained on.", images.real),
    )
    return [columns([_figure(*group) for group in groups])]


def _figure(title: str, caption: str, images: np.ndarray) -> Html:
    drawn = sheet(images)
    _, height, width = drawn.shape
    return figure(title, caption, picture(png(drawn), title, width, height))


def sheet(images: np.ndarray) -> np.ndarray:
    """Images (M, C, H, W) as rows of one image (C, height, width), white between them."""
    count, channels, height, width = images.shape
    rows = -(-count // COLUMNS)
    drawn = np.full(
        (channels, rows * (height + GAP) - GAP, COLUMNS * (width + GAP) - GAP), 255, np.uint8
    )
    for place, image in enumerate(images):
        top, left = ((height + GAP) * (place // COLUMNS), (width + GAP) * (place % COLUMNS))
        drawn[:, top : top + height, left : left + width] = image
    return drawn


def _is_shown(images: np.ndarray) -> bool:
    """Whether an array holds images of a number, type and size that a page can show."""
    return (
        images.dtype == np.uint8
        and images.ndim == 4
        and 0 < len(images) <= MOST_IMAGES
        and images.shape[1] in (1, 3)
        and 0 < min(images.shape[2:]) <= max(images.shape[2:]) <= MAX_SIDE
    )
