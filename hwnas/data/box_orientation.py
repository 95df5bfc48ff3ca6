"""Boxes on photos that are stored turned: on which of the two pictures they were drawn.

Some programs draw boxes on a photo as it is stored and ignore its EXIF orientation. The size that
an annotation file states for a photo that is turned by 90 degrees tells which picture was meant. A
file is written by one program, so what one of its photos tells holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hwnas.errors import InputError

TURNED = 5
"""The first EXIF orientation that exchanges width and height."""


class Photo(NamedTuple):
    """An image and what its annotations say of it.

    Attributes:
        file: path of the image.
        stated: width and height in the annotations; the image's own where they state none.
        size: width and height of the upright image.
        orientation: EXIF orientation, 1 to 8.
    """

    file: Path
    stated: tuple[float, float]
    size: tuple[int, int]
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of the image as it is stored."""
        width, height = self.size
        return (height, width) if self.orientation >= TURNED else (width, height)


def drawn_as_stored(photos: Iterable[Photo], where: Path) -> bool:
    """Return whether the boxes of an annotation file are drawn on images as they are stored.

    Args:
        photos: the images of the file.
        where: the file.

    Raises:
        InputError: one image says so, and another one the contrary.
    """
    telling = [p for p in photos if p.orientation >= TURNED and p.size[0] != p.size[1]]
    upright = [photo for photo in telling if photo.stated == photo.size]
    stored = [photo for photo in telling if photo.stated == photo.stored_size]
    if upright and stored:
        raise InputError(
            "some sizes are those of images as they are stored, others of images turned upright",
            where=str(where),
            expected="one of the two for all images",
            actual=f"{stored[0].file.name} as it is stored, {upright[0].file.name} turned upright",
        )
    return bool(stored)


def require_stated_size(photo: Photo, as_stored: bool) -> None:
    """Raise InputError unless an image has the size that its annotations state."""
    width, height = photo.stored_size if as_stored else photo.size
    if photo.stated != (width, height):
        is_turned = photo.orientation > 1 and not as_stored
        note = " when turned upright by its EXIF orientation " + str(photo.orientation)
        raise InputError(
            "the annotations give another size than the image has",
            where=str(photo.file),
            expected=f"{photo.stated[0]:g}x{photo.stated[1]:g}",
            actual=f"{width}x{height}{note if is_turned else ''}",
        )


def upright_box(box: np.ndarray, photo: Photo) -> np.ndarray:
    """Turn a box on a stored image upright, as the image is turned.

    Args:
        box: left, top, right, bottom in pixels of the stored image.
        photo: the image.

    Returns:
        Left, top, right, bottom in pixels of the upright image.
    """
    (x0, y0, x1, y1), (width, height) = box.tolist(), photo.stored_size
    if photo.orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if photo.orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return np.array([y0, x0, y1, x1] if photo.orientation >= TURNED else [x0, y0, x1, y1])
