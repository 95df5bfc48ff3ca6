"""Dialogues with candidates for the next reply: from CSV files, or generated.

A sample is one sequence of tokens: the words of the dialogue so far, `SEPARATOR`, the words of each
candidate followed by `REPLY`, and padding. A network scores each candidate at its `REPLY`. Choosing
among candidates follows Lowe et al., "The Ubuntu Dialogue Corpus", SIGDIAL 2015 (arXiv 1506.08909).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwnas.data.formats import NEXT_REPLY, VOID, RawData, seeded_rng
from hwnas.data.questions import PLACES, SEPARATOR, THINGS
from hwnas.data.text import WORD, encode, vocabulary_of, words_of
from hwnas.data.text_files import read_csv
from hwnas.errors import InputError

REPLY = "<reply>"
"""Stands behind each candidate; no word of a text is like it."""
CONTEXT, RIGHT = "context", "right"
CANDIDATES = 4
"""Candidates of each generated dialogue, one of which is right."""
TRAIN, TEST = 4000, 1000
"""Number of generated dialogues in each split."""
Row = tuple[str, tuple[str, ...], int]
"""A dialogue, its candidates, and which of them is right, counted from 0."""


def dialogue_words(context: str, candidates: Sequence[str]) -> list[str]:
    """The words of a dialogue and of its candidates, as one sequence."""
    replies = (word for reply in candidates for word in (*words_of(reply), REPLY))
    return [*words_of(context), SEPARATOR, *replies]


def read_replies(path: Path, length: int) -> RawData:
    """Read train.csv and test.csv with the columns context, reply1, reply2 ... and right.

    `right` is the number of the right reply, counted from 1. Empty cells of replies are no
    candidates.

    Args:
        path: folder with both files.
        length: number of tokens per sample; dialogues that are longer are left out.

    Raises:
        InputError: a file or column is missing, a row has fewer than two candidates or does not
            name one of them, or all dialogues of a file are too long.
    """
    rows = [_rows(path / f"{name}.csv") for name in ("train", "test")]
    return _raw_data(rows[0], rows[1], length, str(path))


def generated_replies(length: int) -> RawData:
    """Generate dialogues about a lost thing; the right reply asks about the place that was named.

    Args:
        length: number of tokens per sample.
    """
    parts = []
    for name, count in (("train", TRAIN), ("test", TEST)):
        rng = seeded_rng(0, f"replies {name}")
        parts.append([_dialogue(rng) for _ in range(count)])
    return _raw_data(parts[0], parts[1], length, "generated-replies")


def _rows(path: Path) -> list[Row]:
    header, rows = read_csv(path)
    columns = [name for name in header if name.startswith("reply")]
    if CONTEXT not in header or RIGHT not in header or len(columns) < 2:
        raise InputError(
            "not the columns of a dialogue",
            where=str(path),
            expected=f"{CONTEXT}, reply1, reply2, ..., {RIGHT}",
            actual=",".join(header),
        )
    found = []
    for number, cells in enumerate(rows, start=1):
        row = dict(zip(header, cells, strict=True))
        candidates = tuple(row[name] for name in columns if row[name].strip())
        right = row[RIGHT].strip()
        if len(candidates) < 2 or not right.isdecimal() or not 1 <= int(right) <= len(candidates):
            raise InputError(
                "no right reply among at least two candidates",
                where=f"{path}: row {number}",
                expected=f"a number from 1 to that of the candidates in {RIGHT}",
                actual=f"{right!r} for {len(candidates)} candidates",
            )
        found.append((row[CONTEXT], candidates, int(right) - 1))
    return found


def _raw_data(train: Sequence[Row], test: Sequence[Row], length: int, where: str) -> RawData:
    texts = [[dialogue_words(*row[:2]) for row in split] for split in (train, test)]
    vocabulary = vocabulary_of(texts[0])
    arrays, notes = [], []
    for rows, words, name in zip((train, test), texts, ("train", "test"), strict=True):
        kept = [i for i, found in enumerate(words) if len(found) <= length]
        if not kept:
            raise InputError(
                "all dialogues are too long",
                where=f"{where}: {name}",
                expected=f"at most {length} words of a dialogue and its candidates",
                actual=f"{min(map(len, words))} or more",
                mend="set a larger data.sequence_length",
            )
        if len(kept) < len(rows):
            notes.append(
                f"{where}: {len(rows) - len(kept):,} {name} dialogues are left out, which have "
                f"more than {length} words with their candidates"
            )
        tokens = encode([words[i] for i in kept], vocabulary, length)
        arrays += [tokens, _labels([words[i] for i in kept], [rows[i][2] for i in kept], length)]
    x_train, y_train, x_test, y_test = arrays
    return RawData(
        ("other", "right"),
        x_train,
        y_train,
        x_test,
        y_test,
        NEXT_REPLY,
        vocabulary,
        {"words": WORD.pattern, "lower_case": True},
        tuple(notes),
    )


def _labels(texts: Sequence[Sequence[str]], right: Sequence[int], length: int) -> np.ndarray:
    """Labels (N, length): 1 at the `REPLY` of the right candidate, 0 at the others, else `VOID`."""
    labels = np.full((len(texts), length), VOID, np.int64)
    for row, words, place in zip(labels, texts, right, strict=True):
        ends = [i for i, word in enumerate(words) if word == REPLY]
        row[ends] = 0
        row[ends[place]] = 1
    return labels


def _dialogue(rng: np.random.Generator) -> Row:
    """A random dialogue."""
    places = rng.choice(len(PLACES), CANDIDATES, replace=False)
    right = int(rng.integers(CANDIDATES))
    thing = THINGS[int(rng.integers(len(THINGS)))]
    context = f"i lost the {thing} in the {PLACES[places[right]]} ."
    return context, tuple(f"is the {PLACES[place]} big ?" for place in places), right
