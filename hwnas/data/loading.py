"""Datasets by name: where each comes from, and its reader."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.data.boxes import read_boxes
from hwnas.data.cifar import CIFAR10, CIFAR100, read_cifar
from hwnas.data.dataset import Dataset, Split
from hwnas.data.formats import (
    FASHION_MNIST_CLASSES,
    RawData,
    read_idx_folder,
    read_npz,
    subset_indices,
)
from hwnas.data.image_folder import read_image_folder
from hwnas.data.language import generated_language, read_language
from hwnas.data.masks import read_masks
from hwnas.data.shapes import shapes_detection, shapes_segmentation
from hwnas.data.sounds import generated_keywords, read_sound_folder
from hwnas.data.tables import generated_ratings, read_table_folder
from hwnas.data.text import generated_text, read_text_folder
from hwnas.errors import InputError

IMAGE_SIZE, SEQUENCE_LENGTH = 32, 32
"""Where a configuration states none: the side of generated images, the tokens of a sample."""


@dataclass(frozen=True)
class Request:
    """What a configuration asks a reader for; the limits are only hints to read less."""

    path: Path
    image_size: int | None
    sequence_length: int
    limits: tuple[int | None, int | None]
    seed: int


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from.

    Attributes:
        expected: what its path has to be, or why it takes none.
        place: the kind of that path.
        read: its reader.
        options: keys of a configuration that it honours.
    """

    expected: str
    place: Literal["nowhere", "file", "folder", "either"]
    read: Callable[[Request], RawData]
    options: frozenset[str] = frozenset()


def _shipped_slice(request: Request) -> RawData:
    resource = importlib.resources.files("hwnas.datasets") / "fashion_mnist_slice.npz"
    with importlib.resources.as_file(resource) as file:
        return read_npz(file)


IDX_FOLDER = "a folder with train-images-idx3-ubyte.gz and the three files beside it"
SIZED, COUNTED = frozenset({"image_size"}), frozenset({"sequence_length"})

DATASETS = {
    "fashion-mnist-slice": Source("no path: it ships with hwnas", "nowhere", _shipped_slice),
    "npz": Source(
        "an .npz file with x_train, y_train, x_test, y_test and, optionally, classes",
        "file",
        lambda r: read_npz(r.path),
    ),
    "folder": Source(
        "a folder with train/<class>/*.png and test/<class>/*.png (or .jpg, ...)",
        "folder",
        lambda r: read_image_folder(r.path, r.image_size, r.limits, r.seed),
        SIZED,
    ),
    "cifar10": Source(
        f"{CIFAR10.archive}, or the folder with the .bin files that it extracts to",
        "either",
        lambda r: read_cifar(r.path, CIFAR10),
    ),
    "cifar100": Source(
        f"{CIFAR100.archive}, or the folder with the .bin files that it extracts to",
        "either",
        lambda r: read_cifar(r.path, CIFAR100),
    ),
    "fashion-mnist": Source(
        IDX_FOLDER, "folder", lambda r: read_idx_folder(r.path, FASHION_MNIST_CLASSES)
    ),
    "mnist": Source(IDX_FOLDER, "folder", lambda r: read_idx_folder(r.path, tuple("0123456789"))),
    "masks": Source(
        "a folder with classes.txt, train/images, train/masks, test/images and test/masks",
        "folder",
        lambda r: read_masks(r.path, r.image_size, r.limits, r.seed),
        SIZED,
    ),
    "boxes": Source(
        "a folder with images in train/ and test/, and COCO's train.json and test.json",
        "folder",
        lambda r: read_boxes(r.path, r.image_size, r.limits, r.seed),
        SIZED,
    ),
    "generated-segmentation": Source(
        "no path: images of shapes are generated",
        "nowhere",
        lambda r: shapes_segmentation(r.image_size or IMAGE_SIZE),
        SIZED,
    ),
    "generated-detection": Source(
        "no path: images of shapes are generated",
        "nowhere",
        lambda r: shapes_detection(r.image_size or IMAGE_SIZE),
        SIZED,
    ),
    "sounds": Source(
        "a folder with train/<class>/*.wav and test/<class>/*.wav",
        "folder",
        lambda r: read_sound_folder(r.path, r.limits, r.seed),
    ),
    "generated-keywords": Source(
        "no path: sounds are synthesised", "nowhere", lambda r: generated_keywords()
    ),
    "table": Source(
        "a folder with train.csv and test.csv, whose last column is to be foretold",
        "folder",
        lambda r: read_table_folder(r.path),
    ),
    "generated-ratings": Source(
        "no path: a table of ratings is generated", "nowhere", lambda r: generated_ratings()
    ),
    "text": Source(
        "a folder with train.csv and test.csv, each with the columns text and label",
        "folder",
        lambda r: read_text_folder(r.path, r.sequence_length),
        COUNTED,
    ),
    "language": Source(
        "a text file in UTF-8", "file", lambda r: read_language(r.path, r.sequence_length), COUNTED
    ),
    "generated-language": Source(
        "no path: sentences of a grammar are generated",
        "nowhere",
        lambda r: generated_language(r.sequence_length),
        COUNTED,
    ),
    "generated-text": Source(
        "no path: sentences of a grammar are generated",
        "nowhere",
        lambda r: generated_text(r.sequence_length),
        COUNTED,
    ),
}


def load_dataset(
    name: str = "fashion-mnist-slice",
    path: str | None = None,
    *,
    image_size: int | None = None,
    sequence_length: int | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read or generate a dataset into memory.

    Args:
        name: a key of `DATASETS`.
        path: the file or folder that `DATASETS` describes; None for what ships or is generated.
        image_size: side in pixels to which the images of a folder are resized, or that generated
            ones have.
        sequence_length: tokens of a sample, of texts.
        train_limit: keep a random subset of this many training samples; None keeps all.
        test_limit: the same for the test samples.
        seed: chooses the subsets. What is generated is the same with every seed.

    Raises:
        InputError: an unknown name, a missing path, or content that cannot be used.
    """
    if name not in DATASETS:
        raise InputError("unknown dataset", where="name", expected=list(DATASETS), actual=name)
    source = DATASETS[name]
    if (path is None) != (source.place == "nowhere"):
        raise InputError(
            "needs a path" if path is None else "takes no path",
            where=f"dataset {name}",
            expected=source.expected,
            actual=path,
        )
    for key, value in (("image_size", image_size), ("sequence_length", sequence_length)):
        if value is not None and key not in source.options:
            honouring = [known for known, other in DATASETS.items() if key in other.options]
            raise InputError(
                "has no such setting",
                where=f"dataset {name}",
                expected=f"{key} only with the datasets {', '.join(honouring)}",
                actual=f"{key} {value}",
            )
    place = Path(path or ".").expanduser()
    _require_place(place, source)
    request = Request(
        place, image_size, sequence_length or SEQUENCE_LENGTH, (train_limit, test_limit), seed
    )
    try:
        raw = source.read(request)
    except (OSError, MemoryError) as error:
        raise InputError(
            "cannot be read", where=path or name, expected=source.expected, actual=error
        ) from error
    train = _limited(Split(raw.x_train, raw.y_train), train_limit, seed, "train")
    test = _limited(Split(raw.x_test, raw.y_test), test_limit, seed, "test")
    return Dataset(name, raw.classes, train, test, raw.task, raw.vocabulary, raw.reading)


def _require_place(path: Path, source: Source) -> None:
    is_right_kind = {
        "nowhere": True,
        "file": path.is_file(),
        "folder": path.is_dir(),
        "either": path.exists(),
    }[source.place]
    if not is_right_kind:
        cause = "is not the right kind of file" if path.exists() else "does not exist"
        raise InputError(cause, where=str(path), expected=source.expected)


def _limited(split: Split, limit: int | None, seed: int, name: str) -> Split:
    indices = subset_indices(len(split), limit, seed, name)
    return split if len(indices) == len(split) else split.take(indices)
