"""Images as `.npy` arrays, one in each file, with any number of channels.

An array is (H, W), (H, W, C) or (C, H, W). One of uint8 or uint16 is read like an image of 8 or 16
bits; any other numbers become float32 and are not scaled. Pickled objects are never loaded.
"""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np

from hwnas.data.arrays import ChannelAxis, inputs_of
from hwnas.data.cropping import fitted
from hwnas.data.damaged_files import DamagedFiles
from hwnas.errors import InputError
from hwnas.inspection.arrays import BROKEN_FILE

ARRAY_SUFFIX = ".npy"
BROKEN_HEADER = (SyntaxError, tokenize.TokenError, OverflowError, TypeError, MemoryError)
"""Exceptions that numpy raises beside `BROKEN_FILE` when it reads a damaged header."""


def holds_arrays(files: list[Path]) -> bool:
    """Return whether files are arrays, and not images.

    Raises:
        InputError: some are arrays and some are images.
    """
    arrays = [file for file in files if file.suffix.lower() == ARRAY_SUFFIX]
    if arrays and len(arrays) < len(files):
        raise InputError(
            "arrays and images cannot be mixed",
            where=str(arrays[0]),
            expected=f"{ARRAY_SUFFIX} files only, or none",
            actual=f"{len(arrays)} of {len(files)} files",
        )
    return bool(arrays)


def read_arrays(
    files: list[Path], image_size: int | None, channels: ChannelAxis | None
) -> np.ndarray:
    """Read images that are stored as arrays, with the same type and number of channels.

    Args:
        files: the arrays.
        image_size: crop each image to its central square and resize it to this side (pixels,
            bilinear); None requires that all images have the same size.
        channels: where the axis of the channels is; found from the sizes if None.

    Returns:
        Images (N, C, H, W) uint8, uint16 or float32.

    Raises:
        InputError: files are damaged, are no arrays of finite numbers, or differ in type, number
            of channels or size.
    """
    errors = DamagedFiles(files, "arrays")
    images: np.ndarray | None = None
    for index, file in enumerate(files):
        with errors.collecting(file):
            image = _read(file, channels)
            if image_size is not None:
                image = _resized(image, image_size)
            if images is None:
                first = file
                images = np.empty((len(files), *image.shape), image.dtype)
            if (image.dtype, image.shape) != (images.dtype, images.shape[1:]):
                raise InputError(
                    "the array differs in type, channels or size from the first one",
                    where=str(file),
                    expected=f"{images.dtype} {images.shape[1:]} as {first}",
                    actual=f"{image.dtype} {image.shape}",
                    mend="set image_size to resize all images" if image_size is None else "",
                )
            images[index] = image
    errors.refuse_if_any()
    assert images is not None
    return images


def _read(file: Path, channels: ChannelAxis | None) -> np.ndarray:
    """Return an image (C, H, W)."""
    try:
        # Mapped, so that a size which the header claims is compared with the file's first.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (*BROKEN_FILE, *BROKEN_HEADER) as error:
        raise InputError(
            "not an array, or a damaged one",
            where=str(file),
            expected="a file that numpy.save writes, without pickled objects",
            actual=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3):
        raise InputError(
            "not the array of an image",
            where=str(file),
            expected="(H, W), (H, W, C) or (C, H, W)",
            actual=getattr(array, "shape", "several arrays"),
        )
    image: np.ndarray = inputs_of(array[None], "image", channels, str(file))[0]
    return image


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image (C, side, side) of the same type."""
    from PIL import Image

    planes = [
        np.asarray(
            fitted(
                Image.fromarray(np.ascontiguousarray(plane, np.float32)),
                (side, side),
                Image.Resampling.BILINEAR,
            )
        )
        for plane in image
    ]
    resized = np.stack(planes)
    return resized if image.dtype == np.float32 else np.rint(resized).astype(image.dtype)
