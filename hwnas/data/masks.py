"""Reader of segmentation datasets: images with masks that hold the class of each pixel.

Each split has a folder `images` and a folder `masks`. The mask of an image is a file with the same
stem, in a lossless format with one 8-bit channel or with a palette; its pixel values or palette
indices are the classes. `classes.txt` beside the splits names the classes 0, 1, ..., one per line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwnas.data.formats import RawData, subset_indices
from hwnas.data.image_folder import fitted, held_out_folder, image_files, opened, read_images
from hwnas.data.text_files import read_text
from hwnas.errors import InputError

MASK_MODES = ("L", "P")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
MAX_CLASSES = 256


def read_masks(
    path: Path, image_size: int | None, limits: tuple[int | None, int | None], seed: int
) -> RawData:
    """Read train/images, train/masks, test/images, test/masks (or val/) and classes.txt.

    Args:
        path: folder with the folders of both splits and classes.txt.
        image_size: crop images and masks to their central square and resize them to this side
            (pixels), images bilinearly and masks to the nearest pixel; None requires that all
            images have the same size.
        limits: largest number of training and of test samples, applied before any image is
            decoded; None for all.
        seed: selects the samples where a limit applies.

    Returns:
        Images (N, C, H, W) uint8 and the class of each pixel (N, H, W) int64.

    Raises:
        InputError: a file is missing, an image has no mask, a mask differs in size from its image
            or holds a class without a name, or an image is invalid as described at
            `read_image_folder`.
    """
    classes = _class_names(path / "classes.txt")
    files, masks, counts = [], [], []
    folders = ("train", held_out_folder(path))
    for folder, limit, name in zip(folders, limits, ("train", "test"), strict=True):
        split = path / folder
        found = image_files(split / "images")
        chosen = [found[i] for i in subset_indices(len(found), limit, seed, name)]
        by_stem = _by_stem(image_files(split / "masks"))
        files += chosen
        masks += [_mask_of(file, by_stem) for file in chosen]
        counts.append(len(chosen))
    images = read_images(files, image_size)
    size = images.shape[3], images.shape[2]
    targets = np.empty((len(files), *images.shape[2:]), np.int64)
    for target, file, mask in zip(targets, files, masks, strict=True):
        target[:] = _read_mask(mask, file, size, classes)
    x_train, x_test = np.split(images, counts[:1])
    y_train, y_test = np.split(targets, counts[:1])
    return RawData(classes, x_train, y_train, x_test, y_test, "segmentation")


def _class_names(path: Path) -> tuple[str, ...]:
    text = read_text(path, "a text file with the names of the classes 0, 1, ..., one per line")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise InputError(
            "invalid class names",
            where=str(path),
            expected=f"2 to {MAX_CLASSES} different names, one per line",
            actual=f"{len(names)} names, {len(set(names))} of them different",
        )
    return names


def _by_stem(masks: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for mask in masks:
        if mask.suffix.lower() in LOSSY_SUFFIXES:
            raise InputError(
                "masks cannot be stored in a lossy format, which changes pixel values",
                where=str(mask),
                expected="a lossless format such as png",
            )
        if found.setdefault(mask.stem, mask) != mask:
            raise InputError(
                "two masks for the same image",
                where=str(mask),
                expected="one mask per file stem",
                actual=f"also {found[mask.stem]}",
            )
    return found


def _mask_of(file: Path, by_stem: dict[str, Path]) -> Path:
    if file.stem not in by_stem:
        folder = file.parent.parent / "masks"
        raise InputError(
            "an image without a mask", where=str(file), expected=folder / f"{file.stem}.png"
        )
    return by_stem[file.stem]


def _read_mask(
    mask: Path, file: Path, size: tuple[int, int], classes: tuple[str, ...]
) -> np.ndarray:
    """Return the class of each pixel (H, W) after resizing to `size` (width, height)."""
    from PIL.Image import Resampling

    with opened(file) as image, opened(mask) as found:
        if found.mode not in MASK_MODES:
            raise InputError(
                "a mask must have one channel with 8 bits",
                where=str(mask),
                expected="grey values or palette indices that are classes",
                actual=f"mode {found.mode}",
            )
        if found.size != image.size:
            raise InputError(
                "the mask differs in size from its image",
                where=str(mask),
                expected=f"{image.size[0]}x{image.size[1]} as {file}",
                actual=f"{found.size[0]}x{found.size[1]}",
            )
        values = np.asarray(fitted(found, size, Resampling.NEAREST))
    if values.max() >= len(classes):
        raise InputError(
            "the mask has a class without a name",
            where=str(mask),
            expected=f"0 to {len(classes) - 1}, as named in classes.txt",
            actual=values.max(),
            mend="name the class in classes.txt, also if it marks unlabelled pixels",
        )
    return values
