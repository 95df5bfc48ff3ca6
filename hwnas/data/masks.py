"""Reader of segmentation datasets: images with masks that hold the class of each pixel.

Each split has a folder `images` and a folder `masks`. The mask of an image is a file with the same
stem, in a lossless format with one channel or with a palette; its pixel values or palette indices
are the classes. `classes.txt` beside the splits names the classes 0, 1, ..., one per line. Pixels
with the value 255 are void: they belong to no class, as in Pascal VOC and Cityscapes, and are
ignored by the loss and the metrics.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwnas.data.class_folders import files_of, held_out_folder
from hwnas.data.cropping import fitted
from hwnas.data.damaged_files import DamagedFiles
from hwnas.data.formats import SEGMENTATION, VOID, RawData, image_reading, subset_indices
from hwnas.data.image_folder import (
    IMAGES,
    opened,
    orientation,
    read_images,
    upright,
    upright_size,
)
from hwnas.data.table_cells import listed
from hwnas.data.text_files import read_text
from hwnas.errors import InputError

MASK_MODES = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I;16N", "I")
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
MAX_CLASSES = 256
STORED_VOID = 255
"""Value of void pixels in a mask, unless there are so many classes that it is one of them."""


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
        Images (N, C, H, W), as `read_images` returns them, and the class of each pixel
        (N, H, W) int64, `VOID` for void pixels.

    Raises:
        InputError: a file is missing, an image has no mask, a mask differs in size from its image
            or holds a class without a name, or an image is invalid as described at
            `read_image_folder`.
    """
    classes = _class_names(path / "classes.txt")
    files: list[Path] = []
    masks: list[Path] = []
    counts = []
    folders = ("train", held_out_folder(path))
    for folder, limit, name in zip(folders, limits, ("train", "test"), strict=True):
        split = path / folder
        found = files_of(split / "images", IMAGES)
        chosen = [found[i] for i in subset_indices(len(found), limit, seed, name)]
        files += chosen
        masks += _masks_of(chosen, files_of(split / "masks", IMAGES))
        counts.append(len(chosen))
    damaged = DamagedFiles([*files, *masks], "images and masks")
    images = read_images(files, image_size, damaged)
    size = images.shape[3], images.shape[2]
    targets = np.empty((len(files), *images.shape[2:]), np.int64)
    for target, file, mask in zip(targets, files, masks, strict=True):
        if file not in damaged:
            with damaged.collecting(mask):
                target[:] = _read_mask(mask, file, size, classes)
    damaged.refuse_if_any()
    x_train, x_test = np.split(images, counts[:1])
    y_train, y_test = np.split(targets, counts[:1])
    return RawData(
        classes,
        x_train,
        y_train,
        x_test,
        y_test,
        SEGMENTATION,
        reading=image_reading(images),
        notes=_notes(path, y_train, y_test, classes),
    )


def _notes(
    path: Path, y_train: np.ndarray, y_test: np.ndarray, classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Describe the void pixels, and the classes that no training mask holds.

    Raises:
        InputError: the training masks hold fewer than two classes, or the test masks none.
    """
    labelled = np.unique(y_train[y_train != VOID])
    has_void = bool((y_train == VOID).any())
    if len(labelled) < 2:
        only = ", ".join(classes[label] for label in labelled) or "no class"
        besides = f" besides the value {STORED_VOID}, which marks pixels of no class" * has_void
        raise InputError(
            f"the training masks hold {only}{besides or ' alone'}",
            where=str(path / "train" / "masks"),
            expected=f"at least two of the classes 0 to {len(classes) - 1}",
            mend=f"if {STORED_VOID} stands for a class, store that class's number instead"
            if has_void
            else "",
        )
    if (y_test == VOID).all():
        raise InputError(
            f"all pixels of the test masks have the value {STORED_VOID}, which marks pixels of no "
            "class",
            where=str(path / held_out_folder(path) / "masks"),
            expected=f"pixels of the classes 0 to {len(classes) - 1}",
        )
    notes = []
    shares = [float((targets == VOID).mean()) for targets in (y_train, y_test)]
    if any(shares):
        notes.append(
            f"{path}: pixels with the value {STORED_VOID} have no class and are ignored, "
            f"{shares[0]:.2%} of the training masks and {shares[1]:.2%} of the test masks"
        )
    absent = [name for label, name in enumerate(classes) if label not in set(labelled.tolist())]
    if absent:
        notes.append(f"{path}: the training masks hold no pixel of {listed(absent)}")
    return tuple(notes)


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


def _masks_of(files: list[Path], masks: list[Path]) -> list[Path]:
    """Return the mask of each image, the file with the same stem.

    Raises:
        InputError: masks are stored in a lossy format, or images have no mask or two masks.
    """
    damaged = DamagedFiles([*files, *masks], "images and masks")
    by_stem: dict[str, Path] = {}
    for mask in masks:
        with damaged.collecting(mask):
            _check_suffix(mask)
            if by_stem.setdefault(mask.stem, mask) != mask:
                raise InputError(
                    "two masks for the same image",
                    where=str(mask),
                    expected="one mask per file stem",
                    actual=f"also {by_stem[mask.stem]}",
                )
    for file in files:
        with damaged.collecting(file):
            if file.stem not in by_stem and file.stem not in {mask.stem for mask in masks}:
                folder = file.parent.parent / "masks"
                raise InputError(
                    "an image without a mask",
                    where=str(file),
                    expected=folder / f"{file.stem}.png",
                )
    damaged.refuse_if_any()
    return [by_stem[file.stem] for file in files]


def _check_suffix(mask: Path) -> None:
    if mask.suffix.lower() in LOSSY_SUFFIXES:
        raise InputError(
            "masks cannot be stored in a lossy format, which changes pixel values",
            where=str(mask),
            expected="a lossless format such as png",
        )


def _read_mask(
    mask: Path, file: Path, size: tuple[int, int], classes: tuple[str, ...]
) -> np.ndarray:
    """Return the class of each pixel (H, W) after resizing to `size` (width, height)."""
    from PIL.Image import Resampling

    with opened(file) as image, opened(mask) as found:
        if found.mode not in MASK_MODES:
            raise InputError(
                "a mask must have one channel",
                where=str(mask),
                expected="grey values or palette indices that are classes",
                actual=f"mode {found.mode}",
            )
        expected, given = upright_size(image, file), upright_size(found, mask)
        if given != expected:
            raise InputError(
                "the mask differs in size from its image",
                where=str(mask),
                expected=f"{expected[0]}x{expected[1]} as {file}, upright",
                actual=f"{given[0]}x{given[1]}",
            )
        turned = upright(found, orientation(found, mask))
        values = np.asarray(fitted(turned, size, Resampling.NEAREST)).astype(np.int64)
    if len(classes) <= STORED_VOID:
        values[values == STORED_VOID] = VOID
    if values.max() >= len(classes) or values.min() < VOID:
        raise InputError(
            "the mask has a class without a name",
            where=str(mask),
            expected=f"0 to {len(classes) - 1}, as named in classes.txt, or {STORED_VOID} for "
            "pixels of no class",
            actual=values.max(),
            mend="name the class in classes.txt",
        )
    return values
