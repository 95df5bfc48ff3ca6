"""Reader of image folders: train/<class>/*.png and test/<class>/*.png, through Pillow."""

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

# Pillow's plain decoders only: others start programs (EPS) or open further files.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("CMYK", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")


def read_image_folder(
    path: Path, image_size: int | None, limits: tuple[int | None, int | None], seed: int
) -> RawData:
    """Read train/<class>/ and test/<class>/ (or val/<class>/) in the order of the file names.

    The limits are applied before anything is decoded. Images become RGB, or one grey channel
    where all of them are grey; transparency is dropped. With `image_size` each image is cut to
    its central square and resized to that side (bilinear); without it all must have one size.
    Hidden files and files without the suffix of an image are skipped.

    Raises:
        InputError: a missing folder, a class without images, a file that is truncated, no image,
            larger than `PIL.Image.MAX_IMAGE_PIXELS` or of another size than the first.
    """
    test_path = path / held_out_name(path)
    classes = class_folders(path / "train")
    unknown = sorted(set(class_folders(test_path)) - set(classes))
    if unknown:
        raise InputError(
            "class without training images", where=str(test_path / unknown[0]), expected=classes
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


def held_out_name(path: Path) -> str:
    """`val` where a folder has that and no `test`, else `test`."""
    has_val_only = (path / "val").is_dir() and not (path / "test").is_dir()
    return "val" if has_val_only else "test"


def class_folders(path: Path, content: str = "images") -> tuple[str, ...]:
    """Return the names of the class folders, sorted."""
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
        # A test split may lack a class; class_folders has found every class in the training split.
        found = image_files(folder) if folder.is_dir() else []
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, np.int64)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        InputError: when there is none.
    """
    found = [
        entry
        for entry in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    ]
    if not found:
        suffixes = ", ".join(_SUFFIXES)
        raise InputError("no images", where=str(folder), expected=f"files {suffixes}")
    return found


def read_images(files: list[Path], image_size: int | None) -> np.ndarray:
    """Decode the files to (N, C, H, W) uint8, after a look at every header.

    With `image_size` each is cut to its central square and resized to that side (bilinear).

    Raises:
        InputError: as for `read_image_folder`.
    """
    from PIL.Image import Resampling

    if image_size is not None and image_size < 1:
        raise InputError("bad size", where="image_size", expected=">= 1", actual=image_size)
    modes = set()
    size = (image_size or 0, image_size or 0)
    for index, file in enumerate(files):
        with opened(file) as image:
            modes.add(_checked_mode(image, file))
            if image_size is None and index == 0:
                size = image.size
            elif image_size is None and image.size != size:
                raise InputError(
                    "image of another size",
                    where=str(file),
                    expected=f"{size[0]}x{size[1]} as {files[0]}",
                    actual=f"{image.size[0]}x{image.size[1]}",
                    mend="give image_size to resize all images",
                )
    mode = "L" if modes <= set(_GREY_MODES) else "RGB"
    width, height = size
    images = np.empty((len(files), len(mode), height, width), np.uint8)
    for index, file in enumerate(files):
        with opened(file) as image:
            pixels = np.asarray(fitted(image.convert(mode), size, Resampling.BILINEAR))
        images[index] = pixels.reshape(height, width, len(mode)).transpose(2, 0, 1)
    return images


def _checked_mode(image: Image.Image, file: Path) -> str:
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise InputError(
            "not an image of 8 bits a channel",
            where=str(file),
            expected="grey, palette, RGB or CMYK",
            actual=f"mode {image.mode}",
            mend="convert it to 8 bits",
        )
    return image.mode


def fitted(image: Image.Image, size: tuple[int, int], filter_: Resampling) -> Image.Image:
    """Cut an image to the aspect of `size` (width, height) and resize it."""
    if image.size == size:
        return image
    return image.resize(size, filter_, box=central_box(image.size, size))


def central_box(given: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest part in the middle that has the aspect of `size`.

    Args:
        given: width and height of what is cut.
        size: width and height of what it becomes.
    """
    scale = min(given[0] / size[0], given[1] / size[1])
    left, top = ((side - scale * wanted) / 2 for side, wanted in zip(given, size, strict=True))
    return left, top, given[0] - left, given[1] - top


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """Open an image file; whatever Pillow raises meanwhile becomes an InputError naming it."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Between one and two times MAX_IMAGE_PIXELS Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            "image too large",
            where=str(file),
            expected=f"at most PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}",
            actual=error,
        ) from error
    except Image.UnidentifiedImageError as error:
        formats = ", ".join(_FORMATS)
        raise InputError("not an image", where=str(file), expected=formats) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError) as error:
        raise InputError("truncated or damaged image", where=str(file), actual=error) from error
    except (struct.error, zlib.error, OverflowError) as error:
        raise InputError("truncated or damaged image", where=str(file), actual=error) from error
