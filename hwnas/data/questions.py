"""Questions about texts, answered by a part of the text: from CSV files, or generated.

A sample is one sequence of tokens: the words of the question, `SEPARATOR`, the words of the text,
and padding. Its target is the position in that sequence of the first and of the last word of the
answer, as in Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", EMNLP
2016 (arXiv 1606.05250).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hwnas.data.formats import QUESTION_ANSWERING, RawData, seeded_rng
from hwnas.data.text import WORD, encode, vocabulary_of, words_of
from hwnas.data.text_files import read_csv
from hwnas.errors import InputError, printable

SEPARATOR = "<separator>"
"""Stands between the question and the text; no word of a text is like it."""
COLUMNS = ("question", "text", "answer")
TRAIN, TEST = 4000, 1000
"""Number of generated questions in each split."""
NAMES = ("ann", "ben", "eva", "ida", "leo", "max", "tom", "zoe")
THINGS = (
    "ball",
    "bike",
    "book",
    "boat",
    "coat",
    "drum",
    "kite",
    "lamp",
    "map",
    "rope",
    "saw",
    "tent",
)
SIZES = ("old", "new", "big", "small", "red", "blue")
PLACES = ("attic", "barn", "cellar", "garage", "garden", "kitchen", "shed", "tower")


def question_words(question: str, text: str) -> list[str]:
    """The words of a question and of the text that it is about, as one sequence."""
    return [*words_of(question), SEPARATOR, *words_of(text)]


def read_questions(path: Path, length: int) -> RawData:
    """Read train.csv and test.csv, each with the columns question, text and answer.

    An answer has to be a part of its text, of whole words; the first place where it occurs counts.

    Args:
        path: folder with both files.
        length: number of tokens per sample; questions whose answer lies behind are left out.

    Raises:
        InputError: a file or column is missing, an answer does not occur in its text, or every
            answer of a file lies behind the last token.
    """
    rows = [_rows(path / f"{name}.csv") for name in ("train", "test")]
    return _raw_data(rows[0], rows[1], length, str(path))


def generated_questions(length: int) -> RawData:
    """Generate texts about who keeps what where, and ask where one of the things is.

    Every question has one right answer, of one or two words.

    Args:
        length: number of tokens per sample.
    """
    parts = []
    for name, count in (("train", TRAIN), ("test", TEST)):
        rng = seeded_rng(0, f"questions {name}")
        parts.append([(*_question(rng), f"{name} {number}") for number in range(count)])
    return _raw_data(parts[0], parts[1], length, "generated-questions")


Row = tuple[str, str, str, str]
"""Question, text, answer, and where they come from."""


def _rows(path: Path) -> list[Row]:
    header, rows = read_csv(path)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InputError(
            f"no column {missing[0]}",
            where=str(path),
            expected=f"a header with the columns {', '.join(COLUMNS)}",
            actual=",".join(header),
        )
    places = [header.index(name) for name in COLUMNS]
    found = []
    for number, row in enumerate(rows, start=1):
        question, text, answer = (row[place] for place in places)
        found.append((question, text, answer, f"{path}: row {number}"))
    return found


def _raw_data(train: Sequence[Row], test: Sequence[Row], length: int, where: str) -> RawData:
    texts = [[question_words(row[0], row[1]) for row in split] for split in (train, test)]
    vocabulary = vocabulary_of(texts[0])
    arrays, notes = [], []
    for rows, words, name in zip((train, test), texts, ("train", "test"), strict=True):
        spans = np.array([_span(*row) for row in rows])
        kept = np.flatnonzero(spans[:, 1] < length)
        if not len(kept):
            raise InputError(
                "every answer lies behind the last token",
                where=f"{where}: {name}",
                expected=f"answers within the first {length} words of question and text",
                mend="set a larger data.sequence_length",
            )
        if len(kept) < len(rows):
            notes.append(
                f"{where}: {len(rows) - len(kept):,} {name} questions are left out, whose answers "
                f"lie behind the first {length} words of question and text"
            )
        arrays += [encode([words[i] for i in kept], vocabulary, length), spans[kept]]
    x_train, y_train, x_test, y_test = arrays
    return RawData(
        ("start", "end"),
        x_train,
        y_train,
        x_test,
        y_test,
        QUESTION_ANSWERING,
        vocabulary,
        {"words": WORD.pattern, "lower_case": True},
        tuple(notes),
    )


def _span(question: str, text: str, answer: str, where: str) -> tuple[int, int]:
    """The places of the first and the last word of an answer in the sequence of a sample."""
    words, wanted = words_of(text), words_of(answer)
    for start in _places(words, wanted):
        first = len(words_of(question)) + 1 + start
        return first, first + len(wanted) - 1
    raise InputError(
        "the answer is no part of the text",
        where=where,
        expected="words that follow each other in the text",
        actual=printable(answer, 60) or "an empty answer",
    )


def _places(words: Sequence[str], wanted: Sequence[str]) -> Iterator[int]:
    """Where some words follow each other among others."""
    if wanted:
        for start in range(len(words) - len(wanted) + 1):
            if list(words[start : start + len(wanted)]) == list(wanted):
                yield start


def _question(rng: np.random.Generator) -> tuple[str, str, str]:
    """A random question, its text and its answer."""
    count = int(rng.integers(2, 4))
    things = rng.choice(len(THINGS), count, replace=False)
    places = []
    for place in rng.choice(len(PLACES), count, replace=False):
        size = f"{SIZES[int(rng.integers(len(SIZES)))]} " if rng.integers(2) else ""
        places.append(size + PLACES[place])
    names = (NAMES[int(rng.integers(len(NAMES)))] for _ in range(count))
    facts = [
        f"{name} keeps the {THINGS[thing]} in the {place} ."
        for name, thing, place in zip(names, things, places, strict=True)
    ]
    asked = int(rng.integers(count))
    return f"where is the {THINGS[things[asked]]} ?", " ".join(facts), places[asked]
