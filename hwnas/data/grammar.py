"""A probabilistic grammar of short opinions, with known labels and known entropy.

    opinion  = clause | clause "but" clause
    clause   = "the" noun "was" [negator] [degree] adjective

Each choice is uniform among its options, and an optional part is present with probability one
half. A clause has the sentiment of its adjective, which a negator inverts; an opinion has the
sentiment of its last clause. A classifier therefore needs the order of the words, not only which
words occur. The grammar is unambiguous, so the entropy of a sentence is the entropy of the choices.
"""

from __future__ import annotations

import math

import numpy as np

NOUNS = ("film", "story", "cast", "music", "ending", "plot", "dialogue", "pace")
NEGATORS = ("not", "never", "hardly")
DEGREES = ("very", "really", "quite")
GOOD = ("good", "moving", "clever", "funny", "bright", "fresh")
BAD = ("bad", "dull", "weak", "tired", "flat", "silly")
CLASSES = ("negative", "positive")

CLAUSE_NATS = math.log(len(NOUNS) * 2 * 2 * len(GOOD + BAD)) + 0.5 * (
    math.log(len(NEGATORS)) + math.log(len(DEGREES))
)
"""Entropy of a clause."""
OPINION_NATS = math.log(2) + 1.5 * CLAUSE_NATS
"""Entropy of an opinion: the choice of a second clause, plus 1.5 clauses on average."""
END = ". "
"""Ends each sentence of a running text."""


def _mean_length(words: tuple[str, ...]) -> float:
    return sum(map(len, words)) / len(words)


CLAUSE_CHARACTERS = (
    len("the  was ")
    + _mean_length(NOUNS)
    + 0.5 * (_mean_length(NEGATORS) + 1 + _mean_length(DEGREES) + 1)
    + _mean_length(GOOD + BAD)
)
OPINION_CHARACTERS = 1.5 * CLAUSE_CHARACTERS + 0.5 * len(" but ") + len(END)
NATS_PER_CHARACTER = OPINION_NATS / OPINION_CHARACTERS
"""Entropy rate of a running text of opinions, in nats per character."""


def opinion(rng: np.random.Generator) -> tuple[str, int]:
    """Draw a random opinion.

    Returns:
        The sentence, and its class as an index into `CLASSES`.
    """
    text, label = _clause(rng)
    if rng.integers(2):
        second, label = _clause(rng)
        text = f"{text} but {second}"
    return text, label


def _clause(rng: np.random.Generator) -> tuple[str, int]:
    noun, negator, degree = (_one(words, rng) for words in (NOUNS, NEGATORS, DEGREES))
    adjective = _one(GOOD + BAD, rng)
    has_negator, has_degree = rng.integers(2, size=2)
    words = ["the", noun, "was"]
    words += [negator] * int(has_negator) + [degree] * int(has_degree) + [adjective]
    return " ".join(words), int((adjective in GOOD) != bool(has_negator))


def _one(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
