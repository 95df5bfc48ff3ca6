"""A model's answers to files, as JSON data and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import InputError, printable
from hwnas.inference.boxes import Detections
from hwnas.inference.description import IMAGES, LABELS, OWN, QUESTIONS, REPLIES
from hwnas.inference.files import Crop, FileSamples, read_samples
from hwnas.inference.predictor import Predictor

MOST_SHOWN = 20
"""Numbers that a line of text shows of outputs without a known meaning."""
Answer = dict[str, Any]
"""`file`, `row` (None if the file is a single sample), and what the task says."""


def answers_to(
    file: Path, predictor: Predictor, *, top: int, threshold: float, folder: Path | None
) -> list[Answer]:
    """Ask a model about the samples of a file.

    Args:
        file: see `hwnas.inference.files.read_samples`.
        predictor: the model.
        top: how many classes or tokens of each sample are told.
        threshold: least probability of a box.
        folder: where PNG files are written to: of segmentation the class of each pixel, of
            generators the images.

    Raises:
        InputError: a file that the model cannot read, or an image that cannot be written.
    """
    read = read_samples(file, predictor.description)
    rows: list[int | None] = list(read.rows) or [None] * len(read.samples)
    try:
        told = [*_told(read, predictor, top, threshold, file, folder)]
    except InputError as error:
        # The predictor knows the samples, but not the file that they come from.
        if str(file) in str(error):
            raise
        raise InputError(str(error), where=str(file), details=error.details) from None
    return [{"file": str(file), "row": row, **one} for row, one in zip(rows, told, strict=True)]


def _told(
    read: FileSamples,
    predictor: Predictor,
    top: int,
    threshold: float,
    file: Path,
    folder: Path | None,
) -> Iterator[Answer]:
    """What the task says of each sample."""
    model = predictor.description
    if model.task == "detection":
        for found in predictor.predict(read.samples):
            yield {"boxes": _boxes(found, model.shape, model.classes, threshold, read.crop)}
    elif model.task == "segmentation":
        for index, classes in enumerate(predictor.predict(read.samples)):
            path = _png_path(folder, file, index, len(read.samples))
            if path is not None:
                _write_png(classes.astype(np.uint16 if classes.max() > 255 else np.uint8), path)
            yield {"shares": _shares(classes, model.classes), "mask": path and str(path)}
    elif model.task == IMAGES:
        for index, image in enumerate(np.asarray(predictor.predict(read.samples))):
            path = _png_path(folder, file, index, len(read.samples))
            if path is not None:
                _write_png(_for_png(image, model.where), path)
            brightness = float(image.mean()) / 255
            yield {"size": list(image.shape), "brightness": brightness, "image": path and str(path)}
    elif model.task == LABELS:
        for labels in np.asarray(predictor.predict(read.samples)):
            yield {"labels": labels.tolist()}
    elif model.task == OWN:
        for outputs in np.asarray(predictor.predict(read.samples)):
            yield {"outputs": outputs.tolist()}
    elif model.task == QUESTIONS:
        for answer in np.asarray(predictor.predict(read.samples)).tolist():
            yield {"answer": answer}
    elif model.task == REPLIES:
        for reply in np.asarray(predictor.predict(read.samples)).tolist():
            yield {"reply": reply + 1}
    elif model.task == "regression":
        for value in np.asarray(predictor.predict(read.samples)):
            yield {"value": float(value), "name": model.classes[0]}
    else:
        key = "next" if model.task == "language-modelling" else "classes"
        names = predictor.answers
        for row in predictor.predict_proba(read.samples):
            best = np.argsort(-row, kind="stable")[:top]
            yield {key: [{"class": names[i], "probability": float(row[i])} for i in best]}


def _boxes(
    found: Detections,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    threshold: float,
    crop: Crop | None,
) -> list[Answer]:
    """The boxes above the threshold, in pixels of the upright image."""
    _, height, width = shape
    left, top, right, bottom = crop or (0, 0, width, height)
    scale = np.array([(right - left) / width, (bottom - top) / height] * 2)
    boxes = found.boxes * scale + np.array([left, top] * 2)
    return [
        {"class": classes[class_], "probability": float(score), "box": np.round(box, 1).tolist()}
        for box, score, class_ in zip(boxes, found.scores, found.classes, strict=True)
        if score >= threshold
    ]


def _shares(pixels: np.ndarray, classes: tuple[str, ...]) -> list[Answer]:
    """The share of the pixels of each class that occurs, the largest first."""
    counts = np.bincount(pixels.ravel(), minlength=len(classes))
    order = np.argsort(-counts, kind="stable")
    return [
        {"class": classes[i], "share": float(counts[i] / pixels.size)} for i in order if counts[i]
    ]


def _png_path(folder: Path | None, file: Path, index: int, count: int) -> Path | None:
    """Where the image of a sample is written; None without a folder."""
    number = f"_{index + 1}" if count > 1 else ""
    return None if folder is None else folder / f"{file.stem}{number}.png"


def _for_png(image: np.ndarray, where: str) -> np.ndarray:
    """An image (C, H, W) with the axes of a PNG file; InputError for other than 1 or 3 channels."""
    if len(image) not in (1, 3):
        raise InputError(
            "images of so many channels cannot be written as PNG files",
            where=where,
            expected="1 or 3 channels",
            actual=len(image),
            mend="leave --images out, or use `hwnas.Predictor.predict` in Python",
        )
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def _write_png(pixels: np.ndarray, path: Path) -> None:
    """Write an image (H, W) or (H, W, 3), in the form that the readers of images take."""
    from PIL import Image

    if path.exists():
        raise InputError(
            "the file of the image exists already",
            where=str(path),
            mend="choose an empty folder, and files of different names",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    except OSError as error:
        raise InputError("the image cannot be written", where=str(path), actual=error) from None


def in_words(answer: Answer) -> str:
    """One line, or a line for each box."""
    row = "" if answer["row"] is None else f":{answer['row']}"
    place = printable(answer["file"]) + row
    if "value" in answer:
        return f"{place}: {printable(answer['name'], 40)} {answer['value']:.6g}"
    if "answer" in answer:
        return f"{place}: {printable(answer['answer'], 200)}"
    if "reply" in answer:
        return f"{place}: reply {answer['reply']}"
    if "brightness" in answer:
        size = " x ".join(map(str, answer["size"]))
        written = f", {printable(answer['image'])}" if answer["image"] else ""
        return f"{place}: an image of {size}, mean brightness {answer['brightness']:.1%}{written}"
    if "labels" in answer:
        return f"{place}: {' '.join(printable(label, 40) for label in answer['labels'])}"
    if "outputs" in answer:
        numbers = np.ravel(answer["outputs"]).tolist()
        shown = " ".join(f"{number:.6g}" for number in numbers[:MOST_SHOWN])
        return f"{place}: {shown}{' ...' if len(numbers) > MOST_SHOWN else ''}"
    if "boxes" in answer:
        lines = [
            f"{place}: {_share(box, 'probability')} at "
            + " ".join(f"{side:.0f}" for side in box["box"])
            for box in answer["boxes"]
        ]
        return "\n".join(lines) or f"{place}: nothing found"
    shares = answer.get("shares")
    if shares is not None:
        return f"{place}: {', '.join(_share(item, 'share') for item in shares)}"
    found = answer.get("classes") or answer["next"]
    return f"{place}: {', '.join(_share(item, 'probability') for item in found)}"


def _share(item: Answer, key: str) -> str:
    name = item["class"]
    return f"{printable(name, 40) if name.strip() else repr(name)} {item[key]:.1%}"
