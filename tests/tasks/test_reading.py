"""Questions and dialogues: losses and metrics against their definitions, and their readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_files import refusal, save_csvs

from hwnas.data import load_dataset
from hwnas.data.formats import VOID
from hwnas.tasks import task_of

QUESTIONS = "question,text,answer\nWho sings?,Ann sings and Ben talks.,ann\nWho talks?,"
QUESTIONS += '"Ann sings, and old Ben talks.",old Ben\n'
REPLIES = (
    "context,reply1,reply2,reply3,right\nhow are you ?,fine,at noon,,1\nwhen ?,no,,at noon,2\n"
)


def test_answers_are_places_in_the_sequence(tmp_path: Path) -> None:
    data = load_dataset("questions", save_csvs(tmp_path, QUESTIONS, QUESTIONS), sequence_length=14)
    assert (data.task, data.classes) == ("question-answering", ("start", "end"))
    words = [[data.vocabulary[token] for token in row] for row in data.train.inputs]
    first = "who sings ? <separator> ann sings and ben talks .".split()
    assert words[0] == first + ["<padding>"] * 4
    assert data.train.targets.tolist() == [[4, 4], [8, 9]]
    assert words[1][8:10] == ["old", "ben"]


def test_questions_whose_answer_is_cut_off_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = save_csvs(tmp_path, QUESTIONS, QUESTIONS)
    data = load_dataset("questions", folder, sequence_length=8)
    assert len(data.train) == len(data.test) == 1
    assert "1 train questions are left out" in data.notes[0]
    message = refusal(load_dataset, "questions", folder, sequence_length=3)
    assert "every answer lies behind the last token" in message


@pytest.mark.parametrize(
    "train, words",
    [
        ("question,text\na,b\n", "no column answer"),
        (QUESTIONS + "Who?,Ann sings.,Ben\n", "row 3: the answer is no part of the text"),
        (QUESTIONS + "Who?,Ann sings.,\n", "an empty answer"),
    ],
)
def test_questions_without_an_answer_are_refused(tmp_path: Path, train: str, words: str) -> None:
    assert words in refusal(load_dataset, "questions", save_csvs(tmp_path, train, QUESTIONS))


def test_the_right_reply_is_marked_behind_it(tmp_path: Path) -> None:
    data = load_dataset("replies", save_csvs(tmp_path, REPLIES, REPLIES), sequence_length=12)
    words = [data.vocabulary[token] for token in data.train.inputs[0]]
    assert words[:10] == "how are you ? <separator> fine <reply> at noon <reply>".split()
    labels = [[int(v) for v in row if v != VOID] for row in data.train.targets]
    assert labels == [[1, 0], [0, 1]]  # empty cells are no candidates
    assert words[int((data.train.targets[0] == 1).argmax())] == "<reply>"
    short = load_dataset("replies", save_csvs(tmp_path, REPLIES, REPLIES), sequence_length=9)
    assert "1 train dialogues are left out" in short.notes[0]


@pytest.mark.parametrize(
    "train, words",
    [
        ("context,right\na,1\n", "not the columns of a dialogue"),
        (REPLIES + "when ?,no,,,1\n", "row 3: no right reply"),
        (REPLIES + "when ?,no,yes,,3\n", "'3' for 2 candidates"),
        (REPLIES + "when ?,no,yes,,first\n", "'first' for 2 candidates"),
    ],
)
def test_dialogues_without_a_right_reply_are_refused(tmp_path: Path, train, words) -> None:
    assert words in refusal(load_dataset, "replies", save_csvs(tmp_path, train, REPLIES))


def test_scores_of_answers_match_counting_words(rng) -> None:
    data = load_dataset("generated-questions", sequence_length=40, train_limit=20, test_limit=20)
    task, targets = task_of(data), data.test.targets
    scores = rng.standard_normal((20, 2, 1, 40))
    found = task.metrics([(torch.from_numpy(scores), torch.from_numpy(targets))])
    exact, f1 = [], []
    for sample, (first, last) in zip(scores[:, :, 0], targets.tolist(), strict=True):
        spans = [(a, b) for a in range(40) for b in range(a, min(40, a + 30))]
        a, b = max(spans, key=lambda ab: sample[0, ab[0]] + sample[1, ab[1]])
        guess, truth = set(range(a, b + 1)), set(range(first, last + 1))
        exact.append(guess == truth)
        precision, recall = len(guess & truth) / len(guess), len(guess & truth) / len(truth)
        f1.append(2 * precision * recall / max(precision + recall, 1e-9))
    assert found["exact_match"] == pytest.approx(np.mean(exact))
    assert found["word_f1"] == pytest.approx(np.mean(f1))
    logs = scores - np.log(np.exp(scores).sum(axis=3, keepdims=True))
    expected = -np.mean([logs[i, side, 0, targets[i, side]] for i in range(20) for side in (0, 1)])
    loss = task.loss(torch.from_numpy(scores), torch.from_numpy(targets), 0.1)
    assert loss.item() == pytest.approx(expected)
    constant = torch.full((20, 2, 1, 40), -9.0)
    spans, counts = np.unique(targets, axis=0, return_counts=True)
    first, last = spans[counts.argmax()]
    constant[:, 0, 0, first] = constant[:, 1, 0, last] = 9.0
    score = task.score([(constant, torch.from_numpy(targets))])
    assert task.constant_score(targets) == pytest.approx(score)


def test_scores_of_replies_match_their_ranks(rng) -> None:
    data = load_dataset("generated-replies", sequence_length=40, train_limit=20, test_limit=30)
    task, targets = task_of(data), data.test.targets
    scores = rng.standard_normal((30, 1, 1, 40))
    found = task.metrics([(torch.from_numpy(scores), torch.from_numpy(targets))])
    ranks, nats = [], []
    for row, labels in zip(scores[:, 0, 0], targets, strict=True):
        own = row[labels != VOID]
        right = row[labels == 1][0]
        ranks.append(1 + (own > right).sum())
        nats.append(np.log(np.exp(own).sum()) - right)
    assert found["reply_accuracy"] == np.mean(np.array(ranks) == 1)
    assert found["mean_reciprocal_rank"] == pytest.approx(np.mean(1 / np.array(ranks)))
    loss = task.loss(torch.from_numpy(scores), torch.from_numpy(targets))
    assert loss.item() == pytest.approx(np.mean(nats))
    equal = task.score([(torch.zeros(30, 1, 1, 40), torch.from_numpy(targets))])
    assert equal == 0
    assert 0.25 <= task.constant_score(targets) < 0.6


def test_generated_questions_have_the_answer_that_their_text_states() -> None:
    data = load_dataset("generated-questions", sequence_length=40, test_limit=50)
    for tokens, (first, last) in zip(data.test.inputs, data.test.targets.tolist(), strict=True):
        words = [data.vocabulary[token] for token in tokens]
        asked = words[words.index("?") - 1]
        stated = words.index(asked, words.index("<separator>"))
        assert words[stated + 1 : stated + 3] == ["in", "the"]
        assert (first, words[last + 1]) == (stated + 3, ".")
