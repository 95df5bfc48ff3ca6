"""Raw samples as a model's inputs, prepared exactly as in training.

Shapes: N samples, C channels, H rows, W columns, L tokens or times, F columns of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.data.arrays import inputs_of
from hwnas.data.inputs import by_position, fields_of, in_order
from hwnas.data.questions import question_words
from hwnas.data.replies import dialogue_words
from hwnas.data.sounds import SAMPLES, log_mel
from hwnas.data.table_cells import is_missing, number_of
from hwnas.data.text import encode, words_of
from hwnas.errors import InputError, printable
from hwnas.inference.description import QUESTIONS, RAW_TYPES, REPLIES, Description

SHOWN = 30
"""Characters of a cell or text that an error shows."""


def feeds_of(samples: Any, model: Description) -> dict[str, np.ndarray]:
    """Turn raw samples into a model's inputs, by name.

    Args:
        samples: see `prepare`; for a model with several inputs a tuple of them in the model's
            order, or a dictionary by name.
        model: what to prepare them for.

    Raises:
        InputError: samples that do not fit the model, see `prepare`.
    """
    if not model.several:
        return {model.input_name: prepare(samples, model)}
    arrays = raw_several(samples, model)
    feeds = {
        one.input_name: raw if one.vocabulary else normalise(raw, one)
        for one, raw in zip(model.several, arrays.values(), strict=True)
    }
    return feeds


def raw_several(samples: Any, model: Description) -> dict[str, np.ndarray]:
    """Raw samples of several inputs, with the axes and types of the training data.

    Raises:
        InputError: samples that do not fit the model, or other numbers of one input than of others.
    """
    if isinstance(samples, np.ndarray) and samples.dtype.names:
        samples = fields_of(samples)
    names = [one.input_name for one in model.several]
    if not isinstance(samples, tuple | list | Mapping):
        raise InputError(
            "the model has several inputs",
            where="inputs",
            expected=f"a tuple or a dictionary of {', '.join(names)}",
            actual=type(samples).__name__,
        )
    given = samples if isinstance(samples, Mapping) else by_position(samples)
    ordered = in_order(given, names, "inputs")
    found = {one.input_name: raw_inputs(ordered[one.input_name], one) for one in model.several}
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            "the inputs have different numbers of samples",
            where="inputs",
            actual=", ".join(f"{name}: {count}" for name, count in counts.items()),
        )
    return found


def prepare(samples: Any, model: Description) -> np.ndarray:
    """Turn raw samples into a model's inputs.

    Args:
        samples: what the model was trained on: images (N, C, H, W), (N, H, W, C) or (N, H, W);
            signals (N, C, L) or (N, L, C); tables (N, F); spectrograms (N, 1, mels, frames) or
            sounds (N, samples); texts, or tokens (N, L); pairs of a question and its text, or of a
            dialogue and its candidates.
        model: what to prepare them for.

    Returns:
        (N, C, H, W), or tokens (N, L), of the type of the model's input.

    Raises:
        InputError: samples of another type or shape, or values that are not finite.
    """
    raw = raw_inputs(samples, model)
    return raw if model.vocabulary else normalise(raw, model)


def raw_inputs(samples: Any, model: Description) -> np.ndarray:
    """Raw samples with the axes and the type of the training data; arguments as for `prepare`.

    Returns:
        (N, C, H, W) of the model's raw type, or tokens (N, L).
    """
    if model.vocabulary:
        return _tokens(samples, model)
    array = _array(samples)
    if model.task == "audio-keywords" and array.ndim == 2:
        array = _spectrograms(array)
    if model.kind == "table":
        array = _filled(array.reshape(len(array), -1) if array.ndim else array, model)
    elif array.shape[1:] != model.shape and array.ndim in (3, 4):
        array = inputs_of(array, model.kind, None, "inputs")
        array = array[:, :, 0] if len(model.shape) == 2 else array
    if model.kind == "table" and array.ndim == 2 and len(model.shape) == 3:
        array = array[:, :, None, None]
    if array.shape[1:] != model.shape or not len(array):
        raise InputError(
            "samples of another shape than the model reads",
            where="inputs",
            expected=f"(N, {', '.join(map(str, _raw_shape(model)))})",
            actual=array.shape,
        )
    return _of_raw_type(array, model)


def normalise(raw: np.ndarray, model: Description) -> np.ndarray:
    """(raw / largest - mean) / std by channel, rounded as in training.

    Args:
        raw: (N, C, ...) of the model's raw type.
        model: has mean and standard deviation.
    """
    if model.mean is None or model.std is None or model.normalises:
        return raw.astype(model.dtype)
    scale = np.float32(RAW_TYPES[model.raw_dtype])
    axes = (-1, *(1 for _ in model.shape[1:]))
    mean, std = ((moment * scale).reshape(axes) for moment in (model.mean, model.std))
    normalised: np.ndarray = (raw.astype(np.float32) - mean) / std
    return normalised.astype(model.dtype)


def rows_of(records: Sequence[Mapping[str, str]], model: Description, where: str) -> np.ndarray:
    """Rows of a table as texts, such as those of a CSV file, as the columns of a model.

    Args:
        records: the cell of each column by its name; columns that the model does not know are
            left out.
        model: a model of tables, which states its columns.
        where: the file, for errors.

    Returns:
        (N, F) float32. A column `NAME=TEXT` of the model is 1 where the cell of NAME is TEXT. A
        column of codes has that of the cell's text, 0 for unknown texts. Missing numbers are NaN.

    Raises:
        InputError: a column is missing, or a cell of a numeric column is not a number.
    """
    if not model.columns:
        raise InputError(
            "the model does not name its columns",
            where=where,
            mend="give its samples as arrays, from Python",
        )
    values = np.zeros((len(records), len(model.columns)), np.float32)
    for place, name in enumerate(model.columns):
        text_column, _, text = name.partition("=")
        is_number = not records or name in records[0]
        if not is_number and (not text_column or text_column not in records[0]):
            raise InputError(
                "a column is missing",
                where=where,
                expected=printable(name if "=" not in name else text_column, SHOWN),
                actual=printable(", ".join(records[0]), 200),
            )
        codes = {text: code for code, text in enumerate(model.categories.get(name, ()), start=1)}
        for row, record in enumerate(records):
            values[row, place] = (
                codes.get(record[name], 0)
                if name in model.categories
                else _number(record[name], f"{where}: row {row + 1}, {printable(name, SHOWN)}")
                if is_number
                else record[text_column] == text
            )
    return values


def _number(cell: str, where: str) -> float:
    value = number_of(cell)
    if np.isnan(value) and not is_missing(cell):
        raise InputError(
            "not a number", where=where, expected="a number", actual=repr(printable(cell, SHOWN))
        )
    return value


def _array(samples: Any) -> np.ndarray:
    """An array of numbers from arrays, tensors, data frames or nested sequences."""
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError("not an array of samples", where="inputs", actual=error) from None
    if array.dtype == object:
        try:
            array = array.astype(np.float32)
        except (ValueError, TypeError):
            array = array.astype(str)
    if array.dtype.kind not in "buif":
        raise InputError(
            "the samples are not numbers",
            where="inputs",
            expected="integers or floats",
            actual=array.dtype,
        )
    return array


def _of_raw_type(array: np.ndarray, model: Description) -> np.ndarray:
    """The samples in the type of the training data; other types would mean other values."""
    wanted = np.dtype(model.raw_dtype)
    if wanted.kind == "f":
        converted = array.astype(wanted)
        if not np.isfinite(converted).all():
            sample = int(np.argwhere(~np.isfinite(converted))[0, 0])
            raise InputError("NaN or infinity", where=f"inputs: sample {sample}")
        return converted
    if array.dtype != wanted:
        raise InputError(
            "samples of another type than the training data",
            where="inputs",
            expected=f"{wanted}, 0 to {RAW_TYPES[model.raw_dtype]}",
            actual=array.dtype,
            mend=f"scale them to that range and convert them with .astype(numpy.{wanted})",
        )
    return array


def _raw_shape(model: Description) -> tuple[int, ...]:
    """The shape of one raw sample, as users know it."""
    if len(model.shape) != 3:
        return model.shape
    channels, height, width = model.shape
    shapes = {"table": (channels,), "signal": (channels, width), "image": (channels, height, width)}
    return shapes[model.kind]


def _filled(table: np.ndarray, model: Description) -> np.ndarray:
    """Missing numbers replaced by what training filled in, where it did."""
    means = model.reading.get("missing", {})
    if not means or table.shape[1:] != (len(model.columns),):
        return table
    fill = np.array([means.get(name, np.nan) for name in model.columns], np.float32)
    filled: np.ndarray = np.where(np.isnan(table), fill, table)
    return filled


def _spectrograms(sounds: np.ndarray) -> np.ndarray:
    """Spectrograms of sounds (N, samples) in -1..1 at the sample rate of the training data."""
    if sounds.shape[1] != SAMPLES or sounds.dtype.kind != "f":
        raise InputError(
            "sounds of another length or type than the model reads",
            where="inputs",
            expected=f"(N, {SAMPLES}) floats in -1..1",
            actual=f"{sounds.shape} {sounds.dtype}",
        )
    return log_mel(sounds)


def _tokens(samples: Any, model: Description) -> np.ndarray:
    """Tokens (N, L) of texts; tokens that are given as such are checked."""
    (length,) = model.shape
    if model.task in (QUESTIONS, REPLIES) and not isinstance(samples, np.ndarray):
        return encode(pair_words(samples, model), model.vocabulary, length)
    texts = [samples] if isinstance(samples, str) else samples
    listed = texts.ravel().tolist() if isinstance(texts, np.ndarray) and texts.ndim == 1 else texts
    if not isinstance(listed, np.ndarray) and all(isinstance(text, str) for text in listed):
        if not len(listed):
            raise InputError("no texts", where="inputs", expected="at least one")
        if model.task != "language-modelling" and "words" not in model.reading:
            raise InputError(
                "the model does not say how texts become tokens",
                where="inputs",
                expected=f"integers (N, {length})",
                mend="give indices into its vocabulary",
            )
        if model.task == "language-modelling":
            return _characters(list(listed), model.vocabulary, length)
        return encode([words_of(text) for text in listed], model.vocabulary, length)
    tokens = _array(samples)
    if tokens.ndim != 2 or tokens.shape[1] != length or tokens.dtype.kind not in "iu":
        raise InputError(
            "neither texts nor tokens of the model",
            where="inputs",
            expected=f"strings, or integers (N, {length})",
            actual=f"{tokens.dtype} {tokens.shape}",
        )
    if not len(tokens) or tokens.min() < 0 or tokens.max() >= len(model.vocabulary):
        raise InputError(
            "a token out of range", where="inputs", expected=f"0 to {len(model.vocabulary) - 1}"
        )
    return tokens.astype(np.int64)


def pair_words(samples: Any, model: Description) -> list[list[str]]:
    """The words of pairs: a question and its text, or a dialogue and its candidates.

    Raises:
        InputError: other samples, fewer than two candidates, or candidates beyond the model's
            length.
    """
    is_question = model.task == QUESTIONS
    expected = "pairs (question, text)" if is_question else "pairs (dialogue, candidates)"
    found = []
    for number, pair in enumerate(samples):
        parts = tuple(pair) if isinstance(pair, tuple | list) else ()
        texts = list(parts[1:]) if is_question or len(parts) != 2 else list(parts[1])
        if len(parts) != 2 or not all(isinstance(text, str) for text in (parts[0], *texts)):
            raise InputError("not a pair of texts", where=f"sample {number}", expected=expected)
        words = question_words(*parts) if is_question else dialogue_words(parts[0], texts)
        if not is_question and (len(texts) < 2 or len(words) > model.shape[0]):
            raise InputError(
                "too few candidates" if len(texts) < 2 else "the dialogue is too long",
                where=f"sample {number}",
                expected="at least two candidates"
                if len(texts) < 2
                else f"at most {model.shape[0]} words with the candidates",
                actual=len(texts) if len(texts) < 2 else len(words),
            )
        found.append(words)
    if not found:
        raise InputError("no samples", where="inputs", expected=expected)
    return found


def _characters(texts: list[str], vocabulary: Sequence[str], length: int) -> np.ndarray:
    """The last characters of each text as tokens, padded at the end."""
    index = {character: place for place, character in enumerate(vocabulary)}
    tokens = np.zeros((len(texts), length), np.int64)
    for row, text in zip(tokens, texts, strict=True):
        if not text:
            raise InputError("an empty text", where="inputs", expected="at least one character")
        found = [index.get(character, 0) for character in text[-length:]]
        row[: len(found)] = found
    return tokens
