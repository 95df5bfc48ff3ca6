"""Files as raw samples: an image or a sound, the lines of a text, the rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hwnas.data.cropping import central_box
from hwnas.data.formats import require_no_pipe
from hwnas.data.image_folder import opened, read_image, upright_size
from hwnas.data.inputs import in_order
from hwnas.data.sounds import read_sound
from hwnas.data.text_files import read_csv, read_text
from hwnas.errors import InputError, printable
from hwnas.inference.description import IMAGE_TASKS, QUESTIONS, REPLIES, Description
from hwnas.inference.inputs import rows_of
from hwnas.inspection.arrays import read_npz_arrays

Crop = tuple[float, float, float, float]


class FileSamples(NamedTuple):
    """The samples of one file.

    Attributes:
        samples: raw samples, as `Predictor.predict` takes them.
        rows: for each sample the line of the text, or the row of the table or array, counted from
            1; empty if the file is a single sample.
        crop: left, top, right and bottom of what the model sees of an image, in pixels of the
            upright image; None for all else.
    """

    samples: np.ndarray | list[Any] | dict[str, np.ndarray]
    rows: list[int]
    crop: Crop | None = None


def read_samples(file: Path, model: Description) -> FileSamples:
    """Read a file as the samples of a model.

    Args:
        file: an image; a sound; a text, of which every line that is not blank is a sample; a CSV
            file with the columns of the table, or with questions and texts, or with dialogues and
            replies; or `.npy`, an array of one or several samples. For a model with several inputs
            `.npz`, with an array (N, ...) for each input under its name.
        model: what it is read for.

    Raises:
        InputError: the file is missing, damaged, or not what the model reads.
    """
    require_no_pipe(file)
    if model.several:
        return _arrays(file, model)
    if file.suffix.lower() == ".npy":
        return _array(file, model)
    if model.vocabulary and "words" not in model.reading and model.task != "language-modelling":
        raise InputError(
            "the model does not say how texts become tokens",
            where=str(file),
            expected=f".npy, integers (N, {model.shape[0]})",
        )
    if model.task in (QUESTIONS, REPLIES):
        return _pairs(file, model)
    if model.vocabulary:
        lines = read_text(file).splitlines()
        rows = [number for number, line in enumerate(lines, start=1) if line.strip()]
        if not rows:
            raise InputError("no text in this file", where=str(file))
        return FileSamples([lines[number - 1] for number in rows], rows)
    if model.task == "audio-keywords":
        return FileSamples(read_sound(file)[None], [])
    if model.kind == "table":
        header, cells = read_csv(file)
        records = [dict(zip(header, row, strict=True)) for row in cells]
        return FileSamples(rows_of(records, model, str(file)), list(range(1, len(records) + 1)))
    if model.kind == "image" and model.raw_dtype != "float32" and model.shape[0] in (1, 3):
        return _image(file, model)
    raise InputError(
        "not a file that this model reads",
        where=str(file),
        expected=f".npy, an array (N, {', '.join(map(str, model.shape))})",
    )


def _pairs(file: Path, model: Description) -> FileSamples:
    """Questions with their texts, or dialogues with their candidates, in a CSV file."""
    header, cells = read_csv(file)
    is_question = model.task == QUESTIONS
    replies = [name for name in header if name.startswith("reply")]
    needed = ("question", "text") if is_question else ("context", *replies[:2])
    if any(name not in header for name in needed) or len(needed) < 2:
        raise InputError(
            "a column is missing",
            where=str(file),
            expected="question, text" if is_question else "context, reply1, reply2, ...",
            actual=printable(", ".join(header), 200),
        )
    rows = [dict(zip(header, row, strict=True)) for row in cells]
    pairs: list[Any] = [
        (row["question"], row["text"])
        if is_question
        else (row["context"], [row[name] for name in replies if row[name].strip()])
        for row in rows
    ]
    return FileSamples(pairs, list(range(1, len(pairs) + 1)))


def _image(file: Path, model: Description) -> FileSamples:
    channels, height, width = model.shape
    pixels = read_image(file, (channels, height, width), model.raw_dtype == "uint16")
    if model.task not in IMAGE_TASKS[1:]:
        return FileSamples(pixels[None], [])
    with opened(file) as image:
        crop = central_box(upright_size(image, file), (width, height))
    return FileSamples(pixels[None], [], crop)


def _array(file: Path, model: Description) -> FileSamples:
    """The samples in an array that `numpy.save` wrote."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError("no such file", where=str(file)) from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError("not an array of numbers", where=str(file), actual=error) from None
    dimensions = 1 if model.vocabulary or model.kind == "table" else 2 + (model.kind == "image")
    if array.ndim == dimensions:
        return FileSamples(np.array(array)[None], [])
    return FileSamples(np.array(array), list(range(1, len(array) + 1)) if array.ndim else [])


def _arrays(file: Path, model: Description) -> FileSamples:
    """The samples of several inputs in the arrays that `numpy.savez` wrote."""
    names = [one.input_name for one in model.several]
    if file.suffix.lower() != ".npz":
        raise InputError(
            "a model with several inputs reads no single file of this kind",
            where=str(file),
            expected=f".npz with the arrays {', '.join(names)}",
        )
    arrays = in_order(read_npz_arrays(file), names, str(file))
    return FileSamples(arrays, list(range(1, len(arrays[names[0]]) + 1)))
