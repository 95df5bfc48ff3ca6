"""Texts: words and tokens, CSV files that are right or broken, the grammar's truth and entropy."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import fuzz, loads_or_is_refused, refusal
from hypothesis import given
from hypothesis import strategies as st

from hwnas.data import grammar, load_dataset
from hwnas.data.text import PADDING, UNKNOWN, encode, vocabulary_of, words_of

TRAIN = 'label,text\ngood,"A fine, fine film!"\nbad,dull\n'
TEST = "text,label\nA new dull film,bad\n"


def save(folder: Path, train: str = TRAIN, test: str = TEST) -> str:
    (folder / "train.csv").write_text(train)
    (folder / "test.csv").write_text(test)
    return str(folder)


def test_files_become_tokens(tmp_path: Path) -> None:
    data = load_dataset("text", save(tmp_path), sequence_length=6)
    assert data.task == "text-classification"
    assert data.classes == ("bad", "good")
    # Equally frequent words by name.
    assert data.vocabulary == (PADDING, UNKNOWN, "fine", "!", ",", "a", "dull", "film")
    assert data.train.inputs.tolist() == [[5, 2, 4, 2, 7, 3], [6, 0, 0, 0, 0, 0]]
    assert data.test.inputs.tolist() == [[5, 1, 6, 7, 0, 0]]
    assert data.train.targets.tolist() == [1, 0]
    assert data.test.targets.tolist() == [0]
    tokens = data.normalise(data.test.inputs)
    assert tokens.tolist() == data.test.inputs.tolist()


@pytest.mark.parametrize(
    "train,test,words",
    [
        ("text\nx\n", TEST, "no such column, expected label"),
        ("text,label\n", TEST, "no samples"),
        (TRAIN, "text,label\nx,unheard\n", "unheard"),
        ("text,label\nx,a\ny,a\n", TEST, "two labels"),
        ("text,label\nx\n", TEST, "row 1"),
        ('text,label\n"x,a\n', TEST, "not a CSV file"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, train: str, test: str, words: str) -> None:
    assert words in refusal(load_dataset, "text", save(tmp_path, train, test))


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "test.csv").write_bytes(TEST.encode("utf-16"))
    assert "UTF-8" in refusal(load_dataset, "text", str(tmp_path))


@fuzz
@given(st.text(max_size=100), st.text(max_size=100))
def test_any_text_loads_or_is_refused(tmp_path: Path, train: str, test: str) -> None:
    for name, text in (("train", train), ("test", test)):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + text, "utf-8", "surrogatepass")
    loads_or_is_refused("text", tmp_path)


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), min_size=1, max_size=5))
def test_tokens_are_the_words_again(texts: list[list[str]]) -> None:
    vocabulary = vocabulary_of(texts)
    tokens = encode(texts, vocabulary, 5)
    read = [[vocabulary[token] for token in row if token] for row in tokens]
    assert read == texts


def polarity(text: str) -> int:
    """The class of a sentence, read another way than it was made."""
    words = text.rsplit(" but ", 1)[-1].split()
    negated = bool({"not", "never", "hardly"} & set(words))
    return int((words[-1] in grammar.GOOD) ^ negated)


def test_opinions_are_what_their_last_clause_says(rng) -> None:
    drawn = [grammar.opinion(rng) for _ in range(300)]
    assert [label for _, label in drawn] == [polarity(text) for text, _ in drawn]
    assert 0.4 < np.mean([label for _, label in drawn]) < 0.6
    # Neither the adjectives nor the negators alone tell.
    data = load_dataset("generated-text")
    assert np.bincount(data.train.targets).min() > 1800
    assert max(len(words_of(text)) for text, _ in drawn) <= 13


def test_entropy_of_the_grammar_is_that_of_all_its_sentences() -> None:
    """Chances of all clauses, added up; that they sum to 1 shows that none has two derivations."""
    chances: Counter[str] = Counter()
    for noun, negator, degree, adjective in itertools.product(
        grammar.NOUNS,
        (None, *grammar.NEGATORS),
        (None, *grammar.DEGREES),
        grammar.GOOD + grammar.BAD,
    ):
        words = ["the", noun, "was", negator, degree, adjective]
        chance = 1 / len(grammar.NOUNS) / len(grammar.GOOD + grammar.BAD)
        chance *= 0.5 if negator is None else 0.5 / len(grammar.NEGATORS)
        chance *= 0.5 if degree is None else 0.5 / len(grammar.DEGREES)
        chances[" ".join(word for word in words if word)] += chance
    assert sum(chances.values()) == pytest.approx(1)
    assert len(chances) == 8 * 4 * 4 * 12
    entropy = -sum(chance * math.log(chance) for chance in chances.values())
    assert pytest.approx(entropy) == grammar.CLAUSE_NATS
    characters = sum(chance * len(text) for text, chance in chances.items())
    assert pytest.approx(characters) == grammar.CLAUSE_CHARACTERS
    assert pytest.approx(math.log(2) + 1.5 * entropy) == grammar.OPINION_NATS


def test_length_of_opinions_is_as_computed(rng) -> None:
    lengths = [len(grammar.opinion(rng)[0] + grammar.END) for _ in range(4000)]
    error = np.std(lengths) / len(lengths) ** 0.5
    assert abs(np.mean(lengths) - grammar.OPINION_CHARACTERS) < 4 * error


def test_language_windows_cover_the_text_once(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 7) for i in range(400))
    (tmp_path / "text.txt").write_text(text)
    data = load_dataset("language", str(tmp_path / "text.txt"), sequence_length=10)
    assert data.vocabulary == (UNKNOWN, *"abcdefg") == data.classes
    read = ["".join(data.vocabulary[token] for token in row) for row in data.train.inputs]
    foreseen = ["".join(data.vocabulary[token] for token in row[0]) for row in data.train.targets]
    assert "".join(read) == text[:350]
    assert "".join(foreseen) == text[1:351]
    assert data.test.inputs.shape == (3, 10)
    assert data.test.targets.shape == (3, 1, 10)


def test_short_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("too short")
    message = refusal(load_dataset, "language", str(tmp_path / "text.txt"))
    assert "more than 32 characters" in message


def test_a_length_is_only_of_texts() -> None:
    message = refusal(load_dataset, "fashion-mnist-slice", None, sequence_length=8)
    assert "sequence_length only with" in message
    assert "generated-text" in message
