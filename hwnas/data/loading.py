"""The datasets by name, with the place and the reader of each."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.data.arrays import ChannelAxis
from hwnas.data.boxes import read_boxes
from hwnas.data.cifar import CIFAR10, CIFAR100, read_cifar
from hwnas.data.dataset import Dataset, Split
from hwnas.data.formats import (
    FASHION_MNIST_CLASSES,
    RawData,
    read_idx_folder,
    subset_indices,
)
from hwnas.data.generated_tables import generated_disease, generated_likes, generated_ratings
from hwnas.data.image_folder import read_image_folder
from hwnas.data.language import generated_language, read_language
from hwnas.data.latents import to_generate
from hwnas.data.masks import read_masks
from hwnas.data.npz import read_npz
from hwnas.data.questions import generated_questions, read_questions
from hwnas.data.replies import generated_replies, read_replies
from hwnas.data.shapes import shapes_detection, shapes_segmentation
from hwnas.data.signals import generated_signals
from hwnas.data.sounds import generated_keywords, read_sound_folder
from hwnas.data.table_columns import Categories, Missing
from hwnas.data.table_targets import Target
from hwnas.data.tables import read_table_folder
from hwnas.data.targets import Kind
from hwnas.data.text import generated_text, read_text_folder
from hwnas.errors import InputError

IMAGE_SIZE, SEQUENCE_LENGTH = 32, 32
"""Defaults: side of generated images in pixels, and number of tokens per sample."""


@dataclass(frozen=True)
class Request:
    """The arguments that a configuration passes to a reader.

    Attributes:
        path: the file or folder.
        image_size: side of the images in pixels; None for the default.
        sequence_length: number of tokens per sample.
        limits: largest number of training and of test samples. A reader may use them to read
            less; `load_dataset` applies them in any case.
        seed: selects the samples where a limit applies.
        missing: what to do with missing cells in numeric columns of a table.
        categories: how columns of texts in a table are encoded.
        target: what the last column of a table is.
        kind: what one sample of arrays is.
        channels: where arrays have the axis of their channels.
    """

    path: Path
    image_size: int | None
    sequence_length: int
    limits: tuple[int | None, int | None]
    seed: int
    missing: Missing = "refuse"
    categories: Categories = "one-hot"
    target: Target | None = None
    kind: Kind | None = None
    channels: ChannelAxis | None = None


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from and how it is read.

    Attributes:
        expected: description of the required path, or the reason why there is none.
        place: kind of the path.
        read: the reader.
        options: optional keys of the configuration that the reader supports.
    """

    expected: str
    place: Literal["nowhere", "file", "folder", "either"]
    read: Callable[[Request], RawData]
    options: frozenset[str] = frozenset()


def _shipped_slice(request: Request) -> RawData:
    resource = importlib.resources.files("hwnas.datasets") / "fashion_mnist_slice.npz"
    with importlib.resources.as_file(resource) as file:
        return read_npz(file)


IDX_FOLDER = (
    "a folder with train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
    "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
)
GENERATED = frozenset({"latents"})
IMAGE_OPTIONS, TEXT_OPTIONS = frozenset({"image_size"}), frozenset({"sequence_length"})
TABLE_OPTIONS = frozenset({"missing", "categories", "target"})
ARRAY_OPTIONS = frozenset({"kind", "channels"})

DATASETS = {
    "fashion-mnist-slice": Source(
        "no path: it ships with hwnas", "nowhere", _shipped_slice, GENERATED
    ),
    "npz": Source(
        "an .npz file with x_train, y_train, x_test, y_test and, optionally, classes",
        "file",
        lambda r: read_npz(r.path, r.kind, r.channels),
        ARRAY_OPTIONS | GENERATED,
    ),
    "folder": Source(
        "a folder with train/<class>/*.png and test/<class>/*.png (or .jpg, .npy, ...)",
        "folder",
        lambda r: read_image_folder(r.path, r.image_size, r.limits, r.seed, r.channels),
        IMAGE_OPTIONS | GENERATED | {"channels"},
    ),
    "cifar10": Source(
        f"{CIFAR10.archive}, or the folder with the .bin files that it extracts to",
        "either",
        lambda r: read_cifar(r.path, CIFAR10),
        GENERATED,
    ),
    "cifar100": Source(
        f"{CIFAR100.archive}, or the folder with the .bin files that it extracts to",
        "either",
        lambda r: read_cifar(r.path, CIFAR100),
        GENERATED,
    ),
    "fashion-mnist": Source(
        IDX_FOLDER, "folder", lambda r: read_idx_folder(r.path, FASHION_MNIST_CLASSES), GENERATED
    ),
    "mnist": Source(
        IDX_FOLDER, "folder", lambda r: read_idx_folder(r.path, tuple("0123456789")), GENERATED
    ),
    "masks": Source(
        "a folder with classes.txt, train/images, train/masks, test/images and test/masks",
        "folder",
        lambda r: read_masks(r.path, r.image_size, r.limits, r.seed),
        IMAGE_OPTIONS,
    ),
    "boxes": Source(
        "a folder with images in train/ and test/, and train.json and test.json in COCO format",
        "folder",
        lambda r: read_boxes(r.path, r.image_size, r.limits, r.seed),
        IMAGE_OPTIONS,
    ),
    "generated-segmentation": Source(
        "no path: images of shapes are generated",
        "nowhere",
        lambda r: shapes_segmentation(r.image_size or IMAGE_SIZE),
        IMAGE_OPTIONS,
    ),
    "generated-detection": Source(
        "no path: images of shapes are generated",
        "nowhere",
        lambda r: shapes_detection(r.image_size or IMAGE_SIZE),
        IMAGE_OPTIONS,
    ),
    "sounds": Source(
        "a folder with train/<class>/*.wav and test/<class>/*.wav (or .flac, .mp3, ...)",
        "folder",
        lambda r: read_sound_folder(r.path, r.limits, r.seed),
    ),
    "generated-keywords": Source(
        "no path: sounds are synthesised", "nowhere", lambda r: generated_keywords()
    ),
    "generated-signals": Source(
        "no path: signals of three sensors are generated",
        "nowhere",
        lambda r: generated_signals(),
    ),
    "table": Source(
        "a folder with train.csv and test.csv, whose last column is the target",
        "folder",
        lambda r: read_table_folder(r.path, r.missing, r.categories, r.target),
        TABLE_OPTIONS,
    ),
    "generated-ratings": Source(
        "no path: a table of ratings is generated", "nowhere", lambda r: generated_ratings()
    ),
    "generated-likes": Source(
        "no path: a table of likes is generated", "nowhere", lambda r: generated_likes()
    ),
    "generated-disease": Source(
        "no path: a table of patients is generated",
        "nowhere",
        lambda r: generated_disease(r.categories),
        frozenset({"categories"}),
    ),
    "text": Source(
        "a folder with train.csv and test.csv, each with the columns text and label",
        "folder",
        lambda r: read_text_folder(r.path, r.sequence_length),
        TEXT_OPTIONS,
    ),
    "language": Source(
        "a text file in UTF-8",
        "file",
        lambda r: read_language(r.path, r.sequence_length),
        TEXT_OPTIONS,
    ),
    "generated-language": Source(
        "no path: sentences of a grammar are generated",
        "nowhere",
        lambda r: generated_language(r.sequence_length),
        TEXT_OPTIONS,
    ),
    "questions": Source(
        "a folder with train.csv and test.csv, each with the columns question, text and answer",
        "folder",
        lambda r: read_questions(r.path, r.sequence_length),
        TEXT_OPTIONS,
    ),
    "generated-questions": Source(
        "no path: texts and questions are generated",
        "nowhere",
        lambda r: generated_questions(r.sequence_length),
        TEXT_OPTIONS,
    ),
    "replies": Source(
        "a folder with train.csv and test.csv, each with the columns context, reply1, ..., right",
        "folder",
        lambda r: read_replies(r.path, r.sequence_length),
        TEXT_OPTIONS,
    ),
    "generated-replies": Source(
        "no path: dialogues are generated",
        "nowhere",
        lambda r: generated_replies(r.sequence_length),
        TEXT_OPTIONS,
    ),
    "generated-text": Source(
        "no path: sentences of a grammar are generated",
        "nowhere",
        lambda r: generated_text(r.sequence_length),
        TEXT_OPTIONS,
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
    missing: Missing = "refuse",
    categories: Categories = "one-hot",
    target: Target | None = None,
    kind: Kind | None = None,
    channels: ChannelAxis | None = None,
    latents: int | None = None,
) -> Dataset:
    """Read or generate a dataset into memory.

    Args:
        name: a key of `DATASETS`.
        path: the file or folder that `DATASETS` describes; None for datasets that ship with
            hwnas or are generated.
        image_size: side in pixels, to which images from a folder are resized and at which images
            are generated.
        sequence_length: number of tokens per sample, for text datasets.
        train_limit: keep a random subset of this many training samples; None keeps all.
        test_limit: the same for the test samples.
        seed: selects the subsets. Generated datasets do not depend on it.
        missing: what to do with missing cells in numeric columns of a table: "refuse" the file,
            or fill in the "mean" of the column's training cells.
        categories: how columns of texts in a table are encoded: "one-hot", or as codes of which the
            network learns an "embedding".
        target: what the last column of a table is, a "number" or a "class"; None for a class where
            its training cells are mostly texts.
        kind: what one sample of an npz file is; see `hwnas.dataset_of`.
        channels: where arrays have the axis of their channels; see `hwnas.dataset_of`.
        latents: length of the latent vectors from which images like these are to be generated; None
            to classify them.

    Raises:
        InputError: the name is unknown, an option does not fit the dataset, the path is missing,
            or its content is invalid.
    """
    if name not in DATASETS:
        raise InputError(
            "unknown dataset",
            where="name",
            expected=f"one of {', '.join(DATASETS)}",
            actual=name,
        )
    source = DATASETS[name]
    options = {
        "image_size": image_size,
        "sequence_length": sequence_length,
        "missing": None if missing == "refuse" else missing,
        "categories": None if categories == "one-hot" else categories,
        "target": target,
        "kind": kind,
        "channels": channels,
        "latents": latents,
    }
    _check_options(name, path, options)
    place = Path(path or ".").expanduser()
    _require_place(place, source)
    limits = train_limit, test_limit
    length = sequence_length or SEQUENCE_LENGTH
    request = Request(
        place, image_size, length, limits, seed, missing, categories, target, kind, channels
    )
    try:
        raw = source.read(request)
    except (OSError, MemoryError) as error:
        raise InputError(
            "the dataset cannot be read",
            where=path or name,
            expected=source.expected,
            actual=error,
        ) from error
    if latents is not None:
        raw = to_generate(raw, latents, path or name)
    train = _limited(Split(raw.x_train, raw.y_train), train_limit, seed, "train")
    test = _limited(Split(raw.x_test, raw.y_test), test_limit, seed, "test")
    return Dataset(name, raw.classes, train, test, raw.task, raw.vocabulary, raw.reading, raw.notes)


def _check_options(name: str, path: str | None, options: Mapping[str, int | str | None]) -> None:
    """Raise InputError unless the dataset takes the path and the options that are given."""
    source = DATASETS[name]
    if (path is None) != (source.place == "nowhere"):
        raise InputError(
            "this dataset needs a path" if path is None else "this dataset takes no path",
            where=f"dataset {name}",
            expected=source.expected,
            actual=path,
        )
    for key, value in options.items():
        if value is not None and key not in source.options:
            supporting = [known for known, other in DATASETS.items() if key in other.options]
            raise InputError(
                f"this dataset has no option {key}",
                where=f"dataset {name}",
                expected=f"{key} only with the datasets {', '.join(supporting)}",
                actual=f"{key} {value}",
            )


def _require_place(path: Path, source: Source) -> None:
    is_right_kind = {
        "nowhere": True,
        "file": path.is_file(),
        "folder": path.is_dir(),
        "either": path.exists(),
    }[source.place]
    if not is_right_kind:
        cause = "not the right kind of path" if path.exists() else "the path does not exist"
        raise InputError(cause, where=str(path), expected=source.expected)


def _limited(split: Split, limit: int | None, seed: int, name: str) -> Split:
    indices = subset_indices(len(split), limit, seed, name)
    return split if len(indices) == len(split) else split.take(indices)
