"""A common size for images of different sizes, found without decoding them."""

from __future__ import annotations

from pathlib import Path

from hwnas.data.image_folder import SUFFIXES, opened, upright_size
from hwnas.errors import InputError

STEP = 8
"""Sides are multiples of this, so that strides of 2 divide them."""


def common_image_side(path: Path, largest: int) -> tuple[int | None, str]:
    """Choose the side of a square that all images below a folder can be resized to.

    Args:
        path: searched for image files in all its folders.
        largest: the longest side (pixels) that is chosen.

    Returns:
        The side in pixels and the reason; None if the images can stay as they are, or none can
        be read.
    """
    sizes = set()
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if hidden or file.suffix.lower() not in SUFFIXES:
            continue
        try:
            with opened(file) as image:
                sizes.add(upright_size(image, file))
        except InputError:
            # The reader lists the files that are damaged.
            continue
    if not sizes or (len(sizes) == 1 and max(max(size) for size in sizes) <= largest):
        return None, ""
    smallest = min(min(size) for size in sizes)
    side = max(STEP, min(largest, smallest - smallest % STEP))
    found = "sizes differ" if len(sizes) > 1 else "large images take long to train on"
    return side, f"{found}, the shortest side is {smallest} pixels; images are cropped to squares"
