"""Labelled texts as sequences of words: CSV files, and sentences of a grammar.

Words are what a letter or digit begins, in lower case; all else that is not white space counts
as a word by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwnas.data.formats import RawData, seeded_rng
from hwnas.data.grammar import CLASSES, opinion
from hwnas.data.text_files import read_csv
from hwnas.errors import InputError

TASK = "text-classification"
PADDING, UNKNOWN = "<padding>", "<unknown>"
MOST_WORDS = 10_000
"""Size of a vocabulary; rarer words are unknown."""
WORD = re.compile(r"\w+|[^\w\s]")
TRAIN, TEST = 4000, 1000
"""Generated sentences."""


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return WORD.findall(text.lower())


def vocabulary_of(texts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Padding, the unknown word, then the most frequent words; equally frequent ones by name."""
    counts = Counter(word for words in texts for word in words)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return (PADDING, UNKNOWN, *ordered[: MOST_WORDS - 2])


def encode(texts: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int) -> np.ndarray:
    """Indices into the vocabulary (N, length) int64, cut off or padded at the end."""
    index = {word: i for i, word in enumerate(vocabulary)}
    tokens = np.zeros((len(texts), length), np.int64)
    for row, words in zip(tokens, texts, strict=True):
        found = [index.get(word, index[UNKNOWN]) for word in words[:length]]
        row[: len(found)] = found
    return tokens


def read_text_folder(path: Path, length: int) -> RawData:
    """Read train.csv and test.csv, each with a header that names the columns text and label.

    The labels are names of classes; those of the training texts are all there are.

    Raises:
        InputError: a missing file or column, a file that is no CSV, a label without training
            texts, or nothing to learn from.
    """
    train, test = (_labelled_texts(path / f"{name}.csv") for name in ("train", "test"))
    classes = tuple(sorted({label for _, label in train}))
    if len(classes) < 2:
        raise InputError(
            "nothing to tell apart", where=str(path / "train.csv"), expected="two labels or more"
        )
    unknown = sorted({label for _, label in test} - set(classes))
    if unknown:
        where = str(path / "test.csv")
        raise InputError("a label without training texts", where=where, actual=unknown[0])
    return _raw_data(train, test, classes, length)


def generated_text(length: int) -> RawData:
    """Opinions of `hwnas.data.grammar`, told positive from negative."""

    def drawn(name: str, count: int) -> list[tuple[str, str]]:
        rng = seeded_rng(0, f"opinions {name}")
        return [(text, CLASSES[label]) for text, label in (opinion(rng) for _ in range(count))]

    return _raw_data(drawn("train", TRAIN), drawn("test", TEST), CLASSES, length)


def _raw_data(
    train: Sequence[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    classes: tuple[str, ...],
    length: int,
) -> RawData:
    words = [[words_of(text) for text, _ in split] for split in (train, test)]
    vocabulary = vocabulary_of(words[0])
    x_train, x_test = (encode(texts, vocabulary, length) for texts in words)
    y_train, y_test = (
        np.array([classes.index(label) for _, label in split]) for split in (train, test)
    )
    reading = {"words": WORD.pattern, "lower_case": True}
    return RawData(classes, x_train, y_train, x_test, y_test, TASK, vocabulary, reading)


def _labelled_texts(path: Path) -> list[tuple[str, str]]:
    """The texts and labels of a file."""
    header, rows = read_csv(path)
    missing = {"text", "label"} - set(header)
    if missing:
        raise InputError("no such column", where=str(path), expected=min(missing))
    text, label = header.index("text"), header.index("label")
    return [(row[text], row[label]) for row in rows]
