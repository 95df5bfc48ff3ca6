"""Texts: words and tokens, valid and malformed CSV files, labels and entropy of the grammar."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import fuzz, loads_or_is_refused, refusal, save_csvs
from hypothesis import given
from hypothesis import strategies as st

from hwnas.data import grammar, load_dataset
from hwnas.data.text import PADDING, UNKNOWN, encode, vocabulary_of, words_of

TRAIN = 'label,text\ngood,"A fine, fine film!"\nbad,dull\n'
TEST = "text,label\nA new dull film,bad\n"


def test_texts_become_padded_tokens(tmp_path: Path) -> None:
    data = load_dataset("text", save_csvs(tmp_path, TRAIN, TEST), sequence_length=6)
    assert data.task == "text-classification"
    assert data.classes == ("bad", "good")
    # Words of equal frequency are in alphabetical order.
    assert data.vocabulary == (PADDING, UNKNOWN, "fine", "!", ",", "a", "dull", "film")
    assert data.train.inputs.tolist() == [[5, 2, 4, 2, 7, 3], [6, 0, 0, 0, 0, 0]]
    assert data.test.inputs.tolist() == [[5, 1, 6, 7, 0, 0]]
    assert data.train.targets.tolist() == [1, 0]
    assert data.test.targets.tolist() == [0]
    tokens = data.normalise(data.test.inputs)
    assert tokens.tolist() == data.test.inputs.tolist()


@pytest.mark.parametrize(
    "train, test, words",
    [
        ("text\nx\n", TEST, "no column label"),
        ("text,label\n", TEST, "no samples"),
        (TRAIN, "text,label\nx,unheard\n", "unheard"),
        ("text,label\nx,a\ny,a\n", TEST, "two labels"),
        ("text,label\nx\n", TEST, "row 1"),
        ('text,label\n"x,a\n', TEST, "not a CSV file"),
        (TRAIN + ",x\n", TEST, "train.csv: a label is missing"),
        ("text;label\nx;a\n", TEST, "in place of semicolons"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, train: str, test: str, words: str) -> None:
    assert words in refusal(load_dataset, "text", save_csvs(tmp_path, train, test))


def test_encodings_other_than_utf8_are_refused(tmp_path: Path) -> None:
    save_csvs(tmp_path, TRAIN, TEST)
    (tmp_path / "test.csv").write_bytes(TEST.encode("utf-16"))
    assert "UTF-8" in refusal(load_dataset, "text", str(tmp_path))


@fuzz
@given(st.text(max_size=100), st.text(max_size=100))
def test_any_text_loads_or_is_refused(tmp_path: Path, train: str, test: str) -> None:
    save_csvs(tmp_path, "text,label\n" + train, "text,label\n" + test)
    loads_or_is_refused("text", tmp_path)


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=5), min_size=1, max_size=5))
def test_decoding_tokens_gives_the_words_back(texts: list[list[str]]) -> None:
    vocabulary = vocabulary_of(texts)
    tokens = encode(texts, vocabulary, 5)
    read = [[vocabulary[token] for token in row if token] for row in tokens]
    assert read == texts


def polarity(text: str) -> int:
    """Return the class of a sentence by parsing it, independently of its generation."""
    words = text.rsplit(" but ", 1)[-1].split()
    negated = bool({"not", "never", "hardly"} & set(words))
    return int((words[-1] in grammar.GOOD) ^ negated)


def test_class_of_an_opinion_is_that_of_its_last_clause(rng) -> None:
    drawn = [grammar.opinion(rng) for _ in range(300)]
    assert [label for _, label in drawn] == [polarity(text) for text, _ in drawn]
    assert 0.4 < np.mean([label for _, label in drawn]) < 0.6
    # Both classes are about equally frequent in the training split.
    data = load_dataset("generated-text")
    assert np.bincount(data.train.targets).min() > 1800
    assert max(len(words_of(text)) for text, _ in drawn) <= 13


def test_entropy_of_the_grammar_matches_an_enumeration_of_all_clauses() -> None:
    """Their number and the sum of their probabilities show that no clause has two derivations."""
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


def test_mean_length_of_opinions_matches_the_computed_one(rng) -> None:
    lengths = [len(grammar.opinion(rng)[0] + grammar.END) for _ in range(4000)]
    error = np.std(lengths) / len(lengths) ** 0.5
    assert abs(np.mean(lengths) - grammar.OPINION_CHARACTERS) < 4 * error


def test_language_samples_cover_the_text_once(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 7) for i in range(400))
    (tmp_path / "text.txt").write_text(text)
    data = load_dataset("language", str(tmp_path / "text.txt"), sequence_length=10)
    assert data.vocabulary == (UNKNOWN, *"abcdefg") == data.classes
    read = ["".join(data.vocabulary[token] for token in row) for row in data.train.inputs]
    targets = ["".join(data.vocabulary[token] for token in row[0]) for row in data.train.targets]
    assert "".join(read) == text[:350]
    assert "".join(targets) == text[1:351]
    assert data.test.inputs.shape == (3, 10)
    assert data.test.targets.shape == (3, 1, 10)


def test_short_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("too short")
    message = refusal(load_dataset, "language", str(tmp_path / "text.txt"))
    assert "more than 32 characters" in message


def test_sequence_length_is_refused_for_datasets_without_texts() -> None:
    message = refusal(load_dataset, "fashion-mnist-slice", None, sequence_length=8)
    assert "sequence_length only with" in message
    assert "generated-text" in message


def test_cells_may_hold_long_texts(tmp_path: Path) -> None:
    """Python's csv module refuses more than 128 KiB unless told otherwise."""
    limit = csv.field_size_limit()
    text = "word " * 40_000 + "end"
    table = f'text,label\n"{text}",a\nshort,b\n'
    data = load_dataset("text", save_csvs(tmp_path, table, table))
    assert data.vocabulary[2] == "word"
    assert csv.field_size_limit() == limit


def test_spaces_around_labels_do_not_count(tmp_path: Path) -> None:
    text = "text,label\nx,a\ny,b\n"
    data = load_dataset("text", save_csvs(tmp_path, text, text.replace(",a", ", a ")))
    assert data.test.targets.tolist() == [0, 1]
