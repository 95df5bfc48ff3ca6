"""Images cropped to the middle and resized."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from PIL.Image import Resampling


def fitted(image: Image.Image, size: tuple[int, int], filter_: Resampling) -> Image.Image:
    """Crop the centre of an image to the aspect ratio of `size` (width, height) and resize it."""
    if image.size == size:
        return image
    return image.resize(size, filter_, box=central_box(image.size, size))


def central_box(given: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the largest centred crop that has the aspect ratio of `size`.

    Args:
        given: width and height of the image.
        size: width and height after resizing.

    Returns:
        Left, top, right and bottom of the crop in pixels of the image.
    """
    scale = min(given[0] / size[0], given[1] / size[1])
    # Rounding may give the side that is not cropped an offset just below 0, which Pillow refuses.
    left, top = (
        max(0.0, (side - scale * wanted) / 2) for side, wanted in zip(given, size, strict=True)
    )
    return left, top, given[0] - left, given[1] - top
