"""Reader of image folders, and decoding of images by Pillow for all readers of images.

Images are turned upright as their EXIF orientation says, which is how viewers show them. Images
with 8 bits per channel stay uint8. If some images of a dataset have 16 bits, all its images become
uint16, so that no level is lost; `RawData.reading` then states the largest value, by which users of
the exported model have to divide.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hwnas.data.array_files import ARRAY_SUFFIX, holds_arrays, read_arrays
from hwnas.data.arrays import ChannelAxis
from hwnas.data.class_folders import FileKind, list_class_folders
from hwnas.data.cropping import fitted
from hwnas.data.damaged_files import DamagedFiles
from hwnas.data.deep_colours import deep_colours, deep_planes
from hwnas.data.formats import DEEPEST, RawData, image_reading, require_no_pipe
from hwnas.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from PIL.Image import Transpose
    from PIL.ImageFile import ImageFile

# Only decoders that are self-contained: others start programs (EPS) or open further files.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGES = FileKind("images", SUFFIXES)
IMAGES_AND_ARRAYS = FileKind("images", (*SUFFIXES, ARRAY_SUFFIX))
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("CMYK", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
"""The EXIF tag that says how a stored image has to be turned."""


def read_image_folder(
    path: Path,
    image_size: int | None,
    limits: tuple[int | None, int | None],
    seed: int,
    channels: ChannelAxis | None = None,
) -> RawData:
    """Read train/<class>/ and test/<class>/ (or val/<class>/) in the order of the file names.

    Images are converted to RGB, or to one grey channel if all of them are grey; transparency is
    dropped. Instead of images, all files may be `.npy` arrays with any number of channels; see
    `hwnas.data.array_files`. `hwnas.data.class_folders` describes which files are read.

    Args:
        path: folder with the folders of both splits.
        image_size: crop each image to its central square and resize it to this side (pixels,
            bilinear); None requires that all images have the same size.
        limits: largest number of training and of test samples, applied before any image is
            decoded; None for all.
        seed: selects the samples where a limit applies.
        channels: where `.npy` arrays have the axis of their channels; found from the sizes if None.

    Returns:
        Images (N, C, H, W), as `read_images` or `read_arrays` returns them, and labels (N,).

    Raises:
        InputError: a folder is missing, a class has no images, or files are truncated, are not
            images, exceed `PIL.Image.MAX_IMAGE_PIXELS` or differ in size from the first.
    """
    folders = list_class_folders(path, IMAGES_AND_ARRAYS, limits, seed)
    files = [*folders.train, *folders.test]
    if holds_arrays(files):
        images = read_arrays(files, image_size, channels)
    else:
        images = read_images(files, image_size)
    x_train, x_test = np.split(images, [len(folders.train)])
    return RawData(
        folders.classes,
        x_train,
        folders.y_train,
        x_test,
        folders.y_test,
        reading=image_reading(images),
        notes=folders.notes,
    )


def read_image(file: Path, shape: tuple[int, int, int], is_deep: bool) -> np.ndarray:
    """Decode one image as those of a dataset were decoded.

    Args:
        file: the image.
        shape: channels (1 or 3), height and width; the image is cropped and resized to them.
        is_deep: whether the dataset has 16 bits per channel.

    Returns:
        The image (C, H, W), in the type of the dataset.

    Raises:
        InputError: the file is missing, damaged, or not an image that datasets may hold.
    """
    channels, height, width = shape
    form = _Form("L" if channels == 1 else "RGB", (width, height), is_deep)
    with opened(file) as image:
        _checked_mode(image, file)
        return _pixels(image, file, form).transpose(2, 0, 1)


class _Form(NamedTuple):
    """What all images of a dataset are converted to.

    Attributes:
        mode: "L" or "RGB".
        size: width and height.
        is_deep: whether some images have 16 bits per channel.
    """

    mode: str
    size: tuple[int, int]
    is_deep: bool


def read_images(
    files: list[Path], image_size: int | None, damaged: DamagedFiles | None = None
) -> np.ndarray:
    """Decode image files.

    All headers are checked before the first image is decoded.

    Args:
        files: the images.
        image_size: crop each image to its central square and resize it to this side (pixels,
            bilinear); None requires that all images have the same size.
        damaged: collects the errors of files, which the caller raises; the pixels of these files
            are undefined. If None, the errors are raised here.

    Returns:
        Images (N, C, H, W) uint8; uint16 if any of them has 16 bits per channel.

    Raises:
        InputError: as for `read_image_folder`.
    """
    if image_size is not None and image_size < 1:
        raise InputError(
            "invalid image size", where="image_size", expected=">= 1", actual=image_size
        )
    errors = DamagedFiles(files, "images") if damaged is None else damaged
    form = _common_form(files, image_size, errors)
    width, height = form.size
    dtype = np.uint16 if form.is_deep else np.uint8
    images = np.empty((len(files), len(form.mode), height, width), dtype)
    for index, file in enumerate(files):
        if file not in errors:
            with errors.collecting(file), opened(file) as image:
                images[index] = _pixels(image, file, form).transpose(2, 0, 1)
    if damaged is None:
        errors.refuse_if_any()
    return images


def _common_form(files: list[Path], image_size: int | None, damaged: DamagedFiles) -> _Form:
    """Return the form that all images will have, from their headers."""
    modes: set[str] = set()
    is_deep = False
    first: tuple[Path, tuple[int, int]] | None = None
    for file in files:
        with damaged.collecting(file), opened(file) as image:
            modes.add(_checked_mode(image, file))
            is_deep |= _is_deep(image)
            size = upright_size(image, file)  # which may decode the image
            first = first or (file, size)
            if image_size is None and size != first[1]:
                raise InputError(
                    "the image differs in size from the first one",
                    where=str(file),
                    expected=f"{first[1][0]}x{first[1][1]} as {first[0]}",
                    actual=f"{size[0]}x{size[1]}",
                    mend="set image_size to resize all images",
                )
    if first is None:
        damaged.refuse_if_any()
        raise InputError("no images", where="files", expected="at least one")
    size = first[1] if image_size is None else (image_size, image_size)
    is_grey = modes <= {*_GREY_MODES, *_DEEP_MODES, "I"}
    return _Form("L" if is_grey else "RGB", size, is_deep)


def _is_deep(image: ImageFile) -> bool:
    """Return whether an opened image has 16 bits per channel."""
    # Pillow widens PGM files with 16 bits to 32; in other formats, mode I means 32 bits.
    is_grey = image.mode in _DEEP_MODES or (image.mode, image.format) == ("I", "PPM")
    return is_grey or deep_colours(image) is not None


def _checked_mode(image: ImageFile, file: Path) -> str:
    if image.mode not in _GREY_MODES + _COLOUR_MODES and not _is_deep(image):
        raise InputError(
            "not an image with 8 or 16 bits per channel",
            where=str(file),
            expected="grey, palette, RGB or CMYK",
            actual=f"mode {image.mode}",
            mend="convert it to 8 or 16 bits per channel, or save it as a .npy array",
        )
    return deep_colours(image) or image.mode


def _pixels(image: ImageFile, file: Path, form: _Form) -> np.ndarray:
    """Return the pixels (H, W, C) of an image in the common form."""
    turned = orientation(image, file)
    if not _is_deep(image):
        values = _fitted(image.convert(form.mode), turned, form)
        values = values * np.uint16(DEEPEST // 255) if form.is_deep else values
    elif deep_colours(image) is None:
        # Mode F holds all values of 16 bits, and Pillow interpolates it without rounding.
        values = np.rint(_fitted(image.convert("F"), turned, form)).astype(np.uint16)
    else:
        with opened(file) as again:
            planes = deep_planes(image, again)
        values = np.stack([np.rint(_fitted(p, turned, form)) for p in planes], 2).astype(np.uint16)
    channels = values if values.ndim == 3 else values[..., None]
    return np.broadcast_to(channels, (*channels.shape[:2], len(form.mode)))


def _fitted(image: Image.Image, turned: int, form: _Form) -> np.ndarray:
    from PIL.Image import Resampling

    return np.asarray(fitted(upright(image, turned), form.size, Resampling.BILINEAR))


def orientation(image: Image.Image, file: Path) -> int:
    """Return the EXIF orientation of an opened image that Pillow leaves to its user, 1 to 8.

    Args:
        image: the opened image.
        file: its path.
    """
    from PIL import Image

    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        if image.format != "PNG" or _has_late_chunks(file):
            found: Any = image.getexif().get(_ORIENTATION, 1)
        else:
            # The method of PNG files decodes the whole image to find chunks behind its pixels.
            found = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, struct.error, zlib.error, KeyError, TypeError):
        return 1  # viewers show images with damaged metadata as they are stored
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _has_late_chunks(file: Path) -> bool:
    """Return whether a PNG file has chunks behind its pixels, where metadata may be, too."""
    has_pixels = False
    with file.open("rb") as stream:
        stream.seek(8)
        while len(header := stream.read(8)) == 8:
            length, name = struct.unpack(">I4s", header)
            if has_pixels and name not in (b"IDAT", b"IEND"):
                return True
            has_pixels |= name == b"IDAT"
            stream.seek(length + 4, os.SEEK_CUR)
    return False


def upright_size(image: Image.Image, file: Path) -> tuple[int, int]:
    """Return the width and height of an opened image after turning it upright."""
    if image.format == "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1:
        image.load()  # which turns it
    width, height = image.size
    return (height, width) if orientation(image, file) >= 5 else (width, height)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image upright.

    Args:
        image: an image as it was stored.
        orientation: its EXIF orientation, 1 to 8.
    """
    turn = _turns().get(orientation)
    return image if turn is None else image.transpose(turn)


def _turns() -> dict[int, Transpose]:
    """Return the transposition for each EXIF orientation but 1."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


@contextlib.contextmanager
def opened(file: Path) -> Iterator[ImageFile]:
    """Open an image file; any error of Pillow inside the block becomes an InputError.

    Raises:
        InputError: the file is missing, is not an image, is too large, truncated or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    require_no_pipe(file)
    try:
        with warnings.catch_warnings():
            # Damaged metadata, which Pillow warns of, does not change the pixels.
            warnings.simplefilter("ignore")
            # Pillow only warns of images between one and two times MAX_IMAGE_PIXELS.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # From a path instead of a stream, Pillow 13 maps TIFF files to memory, and scrambles
            # those whose orientation swaps width and height.
            with file.open("rb") as stream, Image.open(stream, formats=_FORMATS) as image:
                yield image
    except FileNotFoundError:
        raise InputError("no such image", where=str(file), expected="an image file") from None
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
        number = getattr(error, "errno", None)
        if number is not None:  # an error of the file system; Pillow's have no number
            cause = "the image cannot be read"
            raise InputError(cause, where=str(file), actual=os.strerror(number)) from error
        raise InputError("truncated or damaged image", where=str(file), actual=error) from error
    except (struct.error, zlib.error, OverflowError) as error:
        raise InputError("truncated or damaged image", where=str(file), actual=error) from error
