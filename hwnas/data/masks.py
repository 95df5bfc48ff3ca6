"""Reader of images with a class for each pixel.

For each split a folder `images` and a folder `masks` with a file of the same stem for each image,
of one channel of 8 bits, or with a palette whose indices are the classes. `classes.txt` beside the
splits names the classes 0, 1 ..., a line each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwnas.data.formats import RawData, subset_indices
from hwnas.data.image_folder import fitted, held_out_name, image_files, opened, read_images
from hwnas.data.text_files import read_text
from hwnas.errors import InputError

MASK_MODES = ("L", "P")
LOSSY = (".jpg", ".jpeg", ".webp")
MAX_CLASSES = 256


def read_masks(
    path: Path, image_size: int | None, limits: tuple[int | None, int | None], seed: int
) -> RawData:
    """Read train/images, train/masks, test/ (or val/) and classes.txt.

    The limits are applied before anything is decoded. With `image_size` images and masks are cut
    to their central square and resized to that side, masks to the nearest pixel.

    Raises:
        InputError: a missing file, an image without a mask, a mask of another size or with a class
            that has no name, or an image as for `read_image_folder`.
    """
    classes = _class_names(path / "classes.txt")
    files, masks, counts = [], [], []
    folders = ("train", held_out_name(path))
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
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        expected = f"2 to {MAX_CLASSES} different names, a line each"
        raise InputError("bad class names", where=str(path), expected=expected, actual=len(names))
    return names


def _by_stem(masks: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for mask in masks:
        if mask.suffix.lower() in LOSSY:
            raise InputError("a format that changes pixels", where=str(mask), expected="png, say")
        if found.setdefault(mask.stem, mask) != mask:
            raise InputError("two masks of one image", where=str(mask), actual=found[mask.stem])
    return found


def _mask_of(file: Path, by_stem: dict[str, Path]) -> Path:
    if file.stem not in by_stem:
        folder = file.parent.parent / "masks"
        raise InputError(
            "image without a mask", where=str(file), expected=folder / f"{file.stem}.png"
        )
    return by_stem[file.stem]


def _read_mask(
    mask: Path, file: Path, size: tuple[int, int], classes: tuple[str, ...]
) -> np.ndarray:
    """The classes (H, W) of an image's pixels, at a size (width, height)."""
    from PIL.Image import Resampling

    with opened(file) as image, opened(mask) as found:
        if found.mode not in MASK_MODES:
            raise InputError(
                "not a mask of 8 bits and one channel",
                where=str(mask),
                expected="grey values or palette indices that are classes",
                actual=f"mode {found.mode}",
            )
        if found.size != image.size:
            raise InputError(
                "mask of another size than its image",
                where=str(mask),
                expected=f"{image.size[0]}x{image.size[1]} as {file}",
                actual=f"{found.size[0]}x{found.size[1]}",
            )
        values = np.asarray(fitted(found, size, Resampling.NEAREST))
    if values.max() >= len(classes):
        raise InputError(
            "a class without a name",
            where=str(mask),
            expected=f"0 to {len(classes) - 1}, as classes.txt names them",
            actual=values.max(),
            mend="name it in classes.txt, or give pixels that belong to nothing a class",
        )
    return values
