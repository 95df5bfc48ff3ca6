"""Images with several channels of 16 bits, of which Pillow keeps the upper 8 bits.

Pillow names the form of the stored pixels in the `tile` of an image that is opened but not yet
decoded, as `RGB;16B` for 16 bits with the more significant byte first. It keeps that byte. Decoded
again as `RGB;16L`, the other order, the image has the less significant bytes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

GREY = "LA;16B"
"""Form of grey images with transparency, which Pillow decodes as RGBA."""
COLOURS = ("RGB;16", "RGBA;16", "RGBX;16")
ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The opposite of each order of bytes: big-endian, little-endian, and this machine's own."""


def deep_colours(image: ImageFile) -> str | None:
    """Return what an opened image with several channels of 16 bits shows, "L" or "RGB"; else None.

    Args:
        image: opened by Pillow, not yet decoded.
    """
    form = _form(image)
    if form == GREY:
        return "L"
    return "RGB" if form[:-1] in COLOURS and form[-1] in ORDERS else None


def deep_planes(image: ImageFile, again: ImageFile) -> list[Image.Image]:
    """Decode an image for which `deep_colours` is not None.

    Args:
        image: the opened image.
        again: the same file, opened once more.

    Returns:
        One image in mode F, with values 0 to 65535, for each grey or colour channel.
    """
    from PIL import Image

    form = _form(image)
    if form == GREY:
        # Without a form of its own, the four bytes of a pixel are taken as they are.
        again.tile = [tile._replace(args="RGBA") for tile in again.tile]
        levels = np.asarray(again).astype(np.float32)
        return [Image.fromarray(256 * levels[..., 0] + levels[..., 1])]
    swapped = form[:-1] + ORDERS[form[-1]]
    again.tile = [
        tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
        for tile in again.tile
    ]
    upper, lower = (np.asarray(part).astype(np.float32) for part in (image, again))
    return [Image.fromarray(256 * upper[..., c] + lower[..., c]) for c in range(3)]


def _form(image: ImageFile) -> str:
    """Return how the pixels are stored; empty if the image is decoded, or does not say."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    form = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return form if isinstance(form, str) else ""
