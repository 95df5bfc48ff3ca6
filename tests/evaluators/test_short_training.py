"""Evaluation by short training: repeatable, once per architecture, resumable."""

from __future__ import annotations

import pytest
import torch
from helpers.bars import bars
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig, TrainConfig
from hwnas.data import Batches
from hwnas.evaluators.loop import EvaluatedSearch
from hwnas.evaluators.short_training import ShortTraining
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.strategies import build_strategy
from hwnas.tasks import task_of

SPACE = tiny_space("nasbench201", cells=1)
LIMIT = Limit(CostModel(SPACE, table_of(SPACE)))


def evaluator(epochs: int) -> ShortTraining:
    data = bars()
    config = TrainConfig(epochs=epochs, batch_size=12, learning_rate=0.1, ema_decay=0.5)
    batches = Batches(data.train, data, 12, 1, augment=None)
    return ShortTraining(SPACE, config, batches, data.test, task_of(data), 0, torch.device("cpu"))


def search(steps: int) -> EvaluatedSearch:
    settings = {"population": 3, "tournament": 2}
    strategy = build_strategy("evolution", SPACE, 0, settings, Decoder([LIMIT]))
    return EvaluatedSearch(strategy, evaluator(1), [LIMIT], SearchConfig(steps=steps))


def test_more_epochs_raise_the_score_and_scores_are_repeatable() -> None:
    architecture = SPACE.architecture([3, 3, 3, 3, 3, 3])
    short, long = evaluator(1), evaluator(8)
    assert long(architecture) > max(short(architecture), 0.8)
    assert evaluator(8)(architecture) == long(architecture)


def test_fidelity_of_a_third_trains_for_a_third_of_the_epochs() -> None:
    architecture = SPACE.architecture([3, 3, 3, 3, 3, 3])
    evaluate = evaluator(6)
    assert evaluate(architecture, 1 / 3) == evaluator(2)(architecture)
    assert not evaluate.known, "only scores at full fidelity are remembered"


def test_each_architecture_is_trained_once(monkeypatch) -> None:
    evaluate = evaluator(1)
    architecture = SPACE.architecture([1, 2, 3, 1, 2, 3])
    value = evaluate(architecture)
    monkeypatch.setattr(SPACE, "network", lambda a: pytest.fail("trained again"))
    assert evaluate(architecture) == value


def test_resumed_search_equals_the_uninterrupted_one(tmp_path) -> None:
    whole = search(6)
    records = [whole.advance() for _ in range(6)]
    first = search(6)
    for _ in range(4):
        first.advance()
    save_checkpoint(tmp_path, "search", 4, first.state_dict())
    resumed = search(6)
    loaded = load_checkpoint(tmp_path, "search")
    assert loaded is not None
    resumed.load_state_dict(loaded[1])
    assert [resumed.advance() for _ in range(2)] == records[4:]
    decoder = Decoder([LIMIT])
    assert resumed.strategy.best(decoder, 2) == whole.strategy.best(decoder, 2)
    assert resumed.rank(whole.strategy.best(decoder, 2)) == whole.rank(
        whole.strategy.best(decoder, 2)
    )


def test_best_architecture_has_the_highest_score_of_all_evaluations() -> None:
    work = search(8)
    for _ in range(8):
        work.advance()
    (best,) = work.strategy.best(Decoder([LIMIT]))
    assert work.evaluator(best) == max(work.evaluator.known.values())
