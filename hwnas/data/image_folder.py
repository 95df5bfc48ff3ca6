"""Reader of image folders: train/<class>/*.png and test/<class>/*.png, decoded by Pillow."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.data.formats import RawData, subset_indices
from hwnas.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from PIL.Image import Resampling

# Only decoders that are self-contained: others start programs (EPS) or open further files.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("CMYK", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")


def read_image_folder(
    path: Path, image_size: int | None, limits: tuple[int | None, int | None], seed: int
) -> RawData:
    """Read train/<class>/ and test/<class>/ (or val/<class>/) in the order of the file names.

    Images are converted to RGB, or to one grey channel if all of them are grey; transparency is
    dropped. Hidden files and files without the suffix of an image are skipped.

    Args:
        path: folder with the folders of both splits.
        image_size: crop each image to its central square and resize it to this side (pixels,
            bilinear); None requires that all images have the same size.
        limits: largest number of training and of test samples, applied before any image is
            decoded; None for all.
        seed: selects the samples where a limit applies.

    Returns:
        Images (N, C, H, W) uint8 and labels (N,).

    Raises:
        InputError: a folder is missing, a class has no images, or a file is truncated, is not an
            image, exceeds `PIL.Image.MAX_IMAGE_PIXELS` or differs in size from the first.
    """
    test_path = path / held_out_folder(path)
    classes = class_folders(path / "train")
    unknown = sorted(set(class_folders(test_path)) - set(classes))
    if unknown:
        raise InputError(
            "a test class without training images",
            where=str(test_path / unknown[0]),
            expected=f"one of the training classes {', '.join(classes)}",
        )
    train_files, y_train = _list_images(path / "train", classes)
    test_files, y_test = _list_images(test_path, classes)
    train = subset_indices(len(train_files), limits[0], seed, "train")
    test = subset_indices(len(test_files), limits[1], seed, "test")
    files = [train_files[i] for i in train] + [test_files[i] for i in test]
    images = read_images(files, image_size)
    return RawData(
        classes, images[: len(train)], y_train[train], images[len(train) :], y_test[test]
    )


def held_out_folder(path: Path) -> str:
    """Return the name of the test split's folder: `val` if there is that but no `test`."""
    has_val_only = (path / "val").is_dir() and not (path / "test").is_dir()
    return "val" if has_val_only else "test"


def class_folders(path: Path, content: str = "images") -> tuple[str, ...]:
    """Return the sorted names of the class folders of a split.

    Args:
        path: folder of the split.
        content: what the class folders hold, for error messages.

    Raises:
        InputError: the folder is missing or has no class folders.
    """
    expected = f"a folder {path.name}/ with one folder of {content} for each class"
    if not path.is_dir():
        raise InputError("no such folder", where=str(path), expected=expected)
    names = [entry.name for entry in path.iterdir() if entry.is_dir()]
    classes = tuple(sorted(name for name in names if not name.startswith(".")))
    if not classes:
        raise InputError("no class folders", where=str(path), expected=expected)
    return classes


def _list_images(path: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """Return the image files of one split, sorted within their class, and the labels (N,)."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = path / name
        # The test split may lack a class; every class has a folder in the training split.
        found = image_files(folder) if folder.is_dir() else []
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, np.int64)


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name.

    Raises:
        InputError: there are none.
    """
    found = [
        entry
        for entry in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    ]
    if not found:
        suffixes = ", ".join(SUFFIXES)
        raise InputError("no images", where=str(folder), expected=f"files with suffix {suffixes}")
    return found


def read_images(files: list[Path], image_size: int | None) -> np.ndarray:
    """Decode image files to (N, C, H, W) uint8.

    All headers are checked before the first image is decoded.

    Args:
        files: the images.
        image_size: crop each image to its central square and resize it to this side (pixels,
            bilinear); None requires that all images have the same size.

    Raises:
        InputError: as for `read_image_folder`.
    """
    from PIL.Image import Resampling

    if image_size is not None and image_size < 1:
        raise InputError(
            "invalid image size", where="image_size", expected=">= 1", actual=image_size
        )
    mode, size = _common_mode_and_size(files, image_size)
    width, height = size
    images = np.empty((len(files), len(mode), height, width), np.uint8)
    for index, file in enumerate(files):
        with opened(file) as image:
            pixels = np.asarray(fitted(image.convert(mode), size, Resampling.BILINEAR))
        images[index] = pixels.reshape(height, width, len(mode)).transpose(2, 0, 1)
    return images


def _common_mode_and_size(files: list[Path], image_size: int | None) -> tuple[str, tuple[int, int]]:
    """Return the mode ("L" or "RGB") and the size (width, height) that all images will have."""
    modes = set()
    size = (image_size or 0, image_size or 0)
    for index, file in enumerate(files):
        with opened(file) as image:
            modes.add(_checked_mode(image, file))
            if image_size is None and index == 0:
                size = image.size
            elif image_size is None and image.size != size:
                raise InputError(
                    "the image differs in size from the first one",
                    where=str(file),
                    expected=f"{size[0]}x{size[1]} as {files[0]}",
                    actual=f"{image.size[0]}x{image.size[1]}",
                    mend="set image_size to resize all images",
                )
    return ("L" if modes <= set(_GREY_MODES) else "RGB"), size


def _checked_mode(image: Image.Image, file: Path) -> str:
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise InputError(
            "not an image with 8 bits per channel",
            where=str(file),
            expected="grey, palette, RGB or CMYK",
            actual=f"mode {image.mode}",
            mend="convert it to 8 bits per channel",
        )
    return image.mode


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


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """Open an image file; any error of Pillow inside the block becomes an InputError.

    Raises:
        InputError: the file is not an image, is too large, truncated or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow only warns of images between one and two times MAX_IMAGE_PIXELS.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            "the image is too large",
            where=str(file),
            expected=f"at most PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS} pixels",
            actual=error,
        ) from error
    except UnidentifiedImageError as error:
        formats = ", ".join(_FORMATS)
        raise InputError(
            "not an image in a supported format", where=str(file), expected=formats
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError) as error:
        raise InputError("truncated or damaged image", where=str(file), actual=error) from error
    except (struct.error, zlib.error, OverflowError) as error:
        raise InputError("truncated or damaged image", where=str(file), actual=error) from error
