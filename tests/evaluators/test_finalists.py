"""Successive halving among finalists: who goes on, for how long, and whether it can be resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.bars import bars
from helpers.tiny import tiny_space

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig
from hwnas.data import Batches
from hwnas.errors import HwnasError
from hwnas.evaluators.finalists import SuccessiveHalving, rung_sizes
from hwnas.runs.run_folder import RunFolder
from hwnas.strategies.size_prior import SizeEffect
from hwnas.tasks import task_of
from hwnas.training.evaluate import predictions
from hwnas.training.train import DivergedError, Training

SPACE = tiny_space("nasbench201", cells=1)
CELLS = [SPACE.architecture([option] * 6) for option in (3, 2, 1, 3, 2)]
CELLS[3], CELLS[4] = SPACE.architecture([3, 3, 3, 1, 1, 1]), SPACE.architecture([1, 1, 1, 2, 2, 2])


def halving(count: int = 5, **changes) -> SuccessiveHalving:
    data = bars()
    task = task_of(data)
    batches = Batches(data.train, data, 12, 1, augment=None)
    config = TrainConfig(epochs=len(rung_sizes(count)), learning_rate=0.1, ema_decay=0.5)

    def training_of(architecture: Architecture) -> Training:
        torch.manual_seed(0)
        return Training(SPACE.network(architecture), config, batches, 0, task.loss)

    def score_of(work: Training) -> float:
        return task.score(predictions(work.average, data.test, data, torch.device("cpu")))

    made = SuccessiveHalving(
        SPACE,
        CELLS[:count],
        training_of,
        score_of,
        rung_steps=batches.steps_per_epoch,
        checkpoint_every=4,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "finalists, sizes", [(8, [8, 4, 2]), (6, [6, 3, 2]), (5, [5, 3, 2]), (2, [2]), (1, [])]
)
def test_half_of_the_finalists_go_on_until_one_is_left(finalists: int, sizes: list[int]) -> None:
    assert rung_sizes(finalists) == sizes


def test_the_better_half_by_score_goes_on(tmp_path) -> None:
    wished = {cell: [0.1, 0.5, 0.3, 0.4, 0.2][i] for i, cell in enumerate(CELLS)}
    work = halving(size_prior=False)
    networks = iter(CELLS)
    order: list[Architecture] = []
    train = work.training_of

    def training_of(architecture: Architecture) -> Training:
        assert architecture == next(networks), "each is made once, in order"
        made = train(architecture)
        order.append(architecture)
        made.wished = wished[architecture]  # type: ignore[attr-defined]
        return made

    work.training_of, work.score_of = training_of, lambda made: made.wished
    folder = RunFolder(tmp_path)
    folder.create()
    assert work.run(folder, lambda *shown: None) == CELLS[1]
    assert [len(scores) for scores in work.scores] == [1, 3, 2, 3, 1]
    records = [r for r in folder.read_history() if r["event"] == "finalists"]
    assert len(records) == sum(rung_sizes(5))
    assert [r["score"] for r in records[:5]] == [wished[cell] for cell in CELLS]
    assert records[-1]["rung"] == 2


def test_a_finalist_is_trained_as_in_one_training(tmp_path) -> None:
    """What goes on continues where it was, so that its weights are those of all its epochs."""
    work = halving(2)
    folder = RunFolder(tmp_path)
    folder.create()
    work.run(folder, lambda *shown: None)
    alone = work.training_of(CELLS[0])
    for _ in range(work.rung_steps):
        alone.advance()
    assert work.scores[0][0] == work.score_of(alone)


def test_resumed_halving_equals_the_uninterrupted_one(tmp_path) -> None:
    def finish(path, *interruptions: int):
        folder = RunFolder(path)
        folder.create()
        for last in interruptions:

            def stop(done: int, total: int, text: str, last: int = last) -> None:
                if done == last:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                halving().run(folder, stop)
        work = halving()
        best = work.run(folder, lambda *shown: None)
        return best, work.scores, work.effect, folder.read_history()

    assert finish(tmp_path / "resumed", 7, 26, 41) == finish(tmp_path / "whole")


def test_a_checkpoint_of_other_finalists_is_not_used(tmp_path) -> None:
    state = halving(5).state_dict() | {"step": 9}
    work = halving(2)
    work.load_state_dict(state)
    assert work.step == 0


def test_a_training_that_diverges_loses(tmp_path) -> None:
    work = halving(2)
    train = work.training_of

    def training_of(architecture: Architecture) -> Training:
        made = train(architecture)
        if architecture == CELLS[0]:

            def diverge() -> None:
                raise DivergedError("the loss is no longer finite")

            made.advance = diverge  # type: ignore[method-assign, assignment]
        return made

    work.training_of = training_of
    folder = RunFolder(tmp_path)
    folder.create()
    assert work.run(folder, lambda *shown: None) == CELLS[1]
    assert work.scores[0] == [0.0]


def test_other_errors_of_a_training_are_not_swallowed() -> None:
    work = halving(2)

    def fail(architecture: Architecture) -> Training:
        raise HwnasError("no space left")

    work.training_of = fail
    with pytest.raises(HwnasError, match="no space left"):
        work.advance()


def test_the_effect_of_size_is_found_where_scores_follow_size(rng) -> None:
    sizes = np.linspace(10, 14, 40)
    scores = 0.5 + 0.03 * sizes + rng.normal(0, 0.002, 40)
    effect = SizeEffect.learned(sizes, scores)
    assert effect.score_per_doubling == pytest.approx(0.03, rel=0.1)
    # Deviations of this size are noise, so the larger network is preferred.
    assert effect.trust < 0.2
    first, second = effect.values(np.array([12.0, 13.0]), np.array([0.9, 0.899]))
    assert second > first


def test_scores_that_size_does_not_explain_are_trusted(rng) -> None:
    sizes = np.linspace(10, 14, 40)
    scores = 0.5 + rng.normal(0, 0.1, 40)
    effect = SizeEffect.learned(sizes, scores)
    assert effect.trust > 0.9
    assert np.argmax(effect.values(sizes, scores)) == np.argmax(scores)


def test_nothing_is_learned_from_few_or_from_networks_of_one_size() -> None:
    assert SizeEffect.learned(np.arange(3.0), np.array([0.1, 0.5, 0.9])) == SizeEffect()
    same = SizeEffect.learned(np.full(6, 12.0), np.linspace(0.5, 0.9, 6))
    assert same.score_per_doubling == 0
