"""Texts as sequences of characters, for language modelling: a file, or sentences of a grammar."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwnas.data.formats import RawData, seeded_rng
from hwnas.data.grammar import END, opinion
from hwnas.data.text import UNKNOWN
from hwnas.data.text_files import read_text
from hwnas.errors import InputError

TEST_SHARE = 0.1
"""Of a file; its end."""
TRAIN, TEST = 4000, 500
"""Generated sentences."""


def read_language(path: Path, length: int) -> RawData:
    """Read a text; its last tenth is the test split.

    Raises:
        InputError: no text, or too little of it.
    """
    text = read_text(path)
    start = len(text) - int(TEST_SHARE * len(text))
    return _raw_data(text[:start], text[start:], length, str(path))


def generated_language(length: int) -> RawData:
    """Opinions of `hwnas.data.grammar`, one after the other.

    No model has a perplexity below `exp(NATS_A_CHARACTER)` of the grammar on average.
    """

    def drawn(name: str, count: int) -> str:
        rng = seeded_rng(0, f"language {name}")
        return "".join(opinion(rng)[0] + END for _ in range(count))

    return _raw_data(drawn("train", TRAIN), drawn("test", TEST), length, "generated-language")


def _raw_data(train: str, test: str, length: int, where: str) -> RawData:
    vocabulary = (UNKNOWN, *sorted(set(train)))
    index = {character: i for i, character in enumerate(vocabulary)}
    arrays = []
    for text in (train, test):
        if len(text) <= length:
            raise InputError(
                "too short a text",
                where=where,
                expected=f"more than {length} characters to train and to test with",
                actual=len(text),
            )
        tokens = np.array([index.get(character, 0) for character in text])
        # Every character but the first is foreseen once.
        starts = np.arange(0, len(text) - length, length)
        windows = tokens[starts[:, None] + np.arange(length + 1)]
        arrays += [windows[:, :-1].copy(), windows[:, None, 1:].copy()]
    x_train, y_train, x_test, y_test = arrays
    task = "language-modelling"
    return RawData(vocabulary, x_train, y_train, x_test, y_test, task, vocabulary)
