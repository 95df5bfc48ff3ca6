"""A few training samples as they are and as augmentation changes them, to be looked at.

The file `training_samples.npz` has the arrays

    data            () text: the dataset in words
    parts           (P,) text: "as they are", each part of the augmentation that is on, and all of
                    them together
    labels          (P, M) text: what each sample has to be recognised as
    images          (P, M, C, H, W) uint8 with one or three channels, unless there are texts
    texts           (P, M) text, for texts and rows of tables

and holds no pickled objects. Boxes and maps are drawn into their images, signals as lines;
of images that are to be generated the images alone are kept.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from hwnas.data import Augmentation, Dataset
from hwnas.data.augmentation import SampleKind, sample_kind
from hwnas.data.formats import VOID, seeded_rng
from hwnas.data.text import PADDING

SAMPLES = 8
"""Samples that are shown."""
LEAST_SIDE, MOST_SIDE = 48, 96
"""Sides in pixels that images are enlarged or reduced to."""
SIGNAL_SIZE = 96, 48
"""Width and height of a drawn signal."""
MOST_LETTERS = 160
COLUMNS = 6
"""Columns of a table that are shown."""
AS_THEY_ARE, TOGETHER = "as they are", "all together"
DRAWN = ((230, 97, 0), (93, 58, 155), (26, 133, 255), (212, 17, 89), (64, 176, 166))
"""Colours of classes and sensors, which differ for all kinds of colour vision."""


def shown_samples(dataset: Dataset, augment: Augmentation, seed: int, words: str) -> bytes | None:
    """The content of `training_samples.npz`; None for samples with several inputs.

    Args:
        dataset: its first training samples are shown, of each class in turn.
        augment: the parts that are shown; they suit the dataset.
        seed: determines the augmentation.
        words: the dataset in words.
    """
    kind = sample_kind(dataset)
    if kind == "several":
        return None
    chosen = dataset.train.take(_of_each_class(dataset.train.targets))
    samples, targets = dataset.normalise(chosen.inputs), torch.from_numpy(chosen.targets)
    assert isinstance(samples, Tensor)
    shown: dict[str, list[np.ndarray | str]] = {}
    labels = []
    for name, part in _parts(augment):
        rng = seeded_rng(seed, f"shown {name}")
        changed = part.apply_to_batch(samples, targets, dataset, rng)
        shown[name] = [_drawn(*pair, dataset, kind) for pair in zip(*changed, strict=True)]
        labels.append([_label(target, dataset) for target in changed[1]])
    arrays = {"data": np.array(words), "parts": np.array(list(shown)), "labels": np.array(labels)}
    key = "texts" if kind in ("text", "table") else "images"
    arrays[key] = np.array(list(shown.values()))
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _parts(augment: Augmentation) -> Iterator[tuple[str, Augmentation]]:
    """The names of what is shown, and the augmentation of each."""
    yield AS_THEY_ARE, Augmentation()
    for name, value in augment.active.items():
        yield f"{name} = {str(value).lower()}", augment.only(name)
    if len(augment.active) > 1:
        yield TOGETHER, augment


def _of_each_class(targets: np.ndarray) -> np.ndarray:
    """Indices of the first samples, of each class in turn where a sample has one."""
    count = min(SAMPLES, len(targets))
    if targets.ndim != 1:
        return np.arange(count)
    _, first = np.unique(targets, return_index=True)
    rest = np.setdiff1d(np.arange(len(targets)), first)
    return np.concatenate([first, rest])[:count]


def _label(target: Tensor, dataset: Dataset) -> str:
    """What a sample is to be recognised as; empty where that is drawn or is a sequence."""
    if target.ndim == 0:
        return dataset.classes[int(target)]
    if target.is_floating_point() and target.ndim == 1 and len(target) == 1:
        return f"{dataset.classes[0]} {float(target[0]):.4g}"
    if target.is_floating_point() and target.ndim == 1:
        names = [(float(share), dataset.classes[i]) for i, share in enumerate(target) if share > 0]
        return ", ".join(f"{name} {share:.0%}" for share, name in sorted(names, reverse=True))
    return ""


def _drawn(sample: Tensor, target: Tensor, dataset: Dataset, kind: SampleKind) -> np.ndarray | str:
    """A normalised sample as an image (C, H, W) uint8, or as a text."""
    if kind == "text":
        words = [dataset.vocabulary[token] for token in sample.tolist()]
        separator = "" if max(map(len, dataset.vocabulary[1:])) == 1 else " "
        return separator.join(word for word in words if word != PADDING)[:MOST_LETTERS]
    if kind == "table":
        return _row(sample.flatten().numpy(), dataset)
    if kind == "signal":
        return _lines(sample[:, 0].numpy())
    if kind == "latent":
        image = target.numpy()
        return _sized(image[: 3 if len(image) >= 3 else 1])
    values = sample.numpy()
    if kind == "sound":
        return _sized(_of_deviations(values)[:, ::-1])  # low frequencies at the bottom
    pixels = _pixels(values, dataset)
    if target.ndim == 2 and target.is_floating_point():
        return _with_boxes(pixels, target.numpy())
    return _with_map(pixels, target.numpy()) if target.ndim == 2 else _sized(pixels)


def _row(values: np.ndarray, dataset: Dataset) -> str:
    """The first columns of a row in their own units."""
    names = dataset.reading.get("columns", [f"column {i + 1}" for i in range(len(values))])
    mean, std = np.array(dataset.mean), np.array(dataset.std)
    raw = (values * std + mean)[:COLUMNS]
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, raw, strict=False))


def _pixels(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """A normalised image with one or three channels, uint8."""
    kept = values[: 3 if len(values) >= 3 else 1]
    if dataset.train.inputs.dtype != np.uint8:
        return _of_deviations(kept)
    mean, std = (np.array(m)[: len(kept), None, None] for m in (dataset.mean, dataset.std))
    pixels: np.ndarray = np.rint(np.clip(kept * std + mean, 0, 1) * 255).astype(np.uint8)
    return pixels


def _of_deviations(values: np.ndarray) -> np.ndarray:
    """The range within three standard deviations as 0 to 255."""
    shown: np.ndarray = np.rint(np.clip((values + 3) / 6, 0, 1) * 255).astype(np.uint8)
    return shown


def _sized(image: np.ndarray) -> np.ndarray:
    """An image (C, H, W) enlarged by a whole number, or reduced, to a size that can be seen."""
    sides = image.shape[1:]
    factor = -(-LEAST_SIDE // max(sides))
    image = image.repeat(factor, axis=1).repeat(factor, axis=2)
    most = max(image.shape[1:])
    if most <= MOST_SIDE:
        return image
    width, height = (max(1, round(side * MOST_SIDE / most)) for side in image.shape[:0:-1])
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BOX))
        for plane in image
    ]
    return np.stack(planes)


def _lines(signal: np.ndarray) -> np.ndarray:
    """A signal (C, L) as lines of four standard deviations up and down, (3, H, W)."""
    width, height = SIGNAL_SIZE
    image = Image.new("RGB", SIGNAL_SIZE, "white")
    pen = ImageDraw.Draw(image)
    places = np.linspace(0, width - 1, signal.shape[1])
    for channel, values in enumerate(signal):
        rows = (height - 1) * (1 - np.clip((values + 4) / 8, 0, 1))
        points = list(zip(places.tolist(), rows.tolist(), strict=True))
        pen.line(points, fill=DRAWN[channel % len(DRAWN)])
    return np.asarray(image).transpose(2, 0, 1)


def _with_boxes(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """An image with the outlines of its boxes (B, 5)."""
    image = Image.fromarray(_rgb(pixels).transpose(1, 2, 0))
    pen = ImageDraw.Draw(image)
    for class_, left, top, right, bottom in boxes[boxes[:, 0] >= 0].tolist():
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        pen.rectangle(corners, outline=DRAWN[int(class_) % len(DRAWN)])
    return _sized(np.asarray(image).transpose(2, 0, 1))


def _with_map(pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """An image in which the classes (H, W) are mixed as colours; pixels without one are black."""
    colours = np.array(DRAWN, np.float32)[classes % len(DRAWN)].transpose(2, 0, 1)
    mixed = 0.5 * _rgb(pixels) + 0.5 * colours
    return _sized(np.where(classes == VOID, 0, mixed).astype(np.uint8))


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels if len(pixels) == 3 else pixels.repeat(3, axis=0)
