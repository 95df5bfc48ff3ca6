"""Shared searches: nothing is evaluated twice, and work of dead processes is taken over."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.errors import InputError
from hwnas.evaluators.shared import ATTEMPTS, Evaluation, Ledger, SharedSearch
from hwnas.evaluators.storage import open_study
from hwnas.strategies import build_strategy

SPACE = tiny_space("nasbench201")
LIMIT = Limit(CostModel(SPACE, table_of(SPACE)))


class Counted:
    """Records its calls; the score is the fraction of 3x3 convolutions."""

    space = SPACE
    perfect = 1.0

    def __init__(self) -> None:
        self.known: dict[Architecture, float] = {}
        self.asked: list[tuple[Architecture, float]] = []

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        self.asked.append((architecture, fidelity))
        return SPACE.chosen(architecture).count(3) / 6

    def rank(self, architectures: list[Architecture]) -> list[float]:
        return [self(architecture) for architecture in architectures]


@pytest.fixture(params=["journal", pytest.param("database", marks=pytest.mark.slow)])
def storage(request, tmp_path) -> str:
    return str(tmp_path / "s.log") if request.param == "journal" else f"sqlite:///{tmp_path}/s.db"


def worker(storage: str, name: str = "random", steps: int = 20) -> tuple[SharedSearch, Counted]:
    study = open_study(storage, "shared", "maximize", "storage")
    evaluator = Counted()
    strategy = build_strategy(name, SPACE, 0, {}, Decoder([LIMIT]))
    config = SearchConfig(steps=steps, evaluator="zero-cost")
    ledger = Ledger(study, SPACE)
    return SharedSearch(strategy, evaluator, [LIMIT], config, ledger=ledger), evaluator


def test_two_workers_share_the_evaluations_and_find_the_same_best(storage: str) -> None:
    workers = [worker(storage) for _ in range(2)]
    while any(search.step < 20 for search, _ in workers):
        for search, _ in workers:
            if search.step < 20:
                search.advance()
    asked = [a for _, evaluator in workers for a in evaluator.asked]
    assert len(asked) == len(set(asked)) == 20
    assert all(len(evaluator.asked) == 10 for _, evaluator in workers)
    late, evaluator = worker(storage)
    late.advance()
    assert late.step >= 20
    assert not evaluator.asked
    best = {search.strategy.best(Decoder([LIMIT]))[0] for search, _ in [*workers, (late, None)]}
    assert len({SPACE.chosen(a).count(3) for a in best}) == 1


FURTHER = [pytest.param(name, marks=pytest.mark.slow) for name in ("tpe", "hyperband", "reinforce")]


@pytest.mark.parametrize("name", ["evolution", "bayesian", *FURTHER])
def test_strategies_learn_from_evaluations_of_other_workers(name: str, tmp_path) -> None:
    storage = str(tmp_path / "s.log")
    first, _ = worker(storage, name, steps=30)
    while first.step < 30:
        first.advance()
    second, _ = worker(storage, name, steps=32)
    second.advance()
    assert second.step == 31
    assert len(second.strategy.records) == 31


def test_each_fidelity_of_an_architecture_is_a_separate_evaluation(tmp_path) -> None:
    """Hyperband evaluates architectures at several fidelities."""
    workers = [worker(str(tmp_path / "s.log"), "hyperband", steps=30) for _ in range(2)]
    while any(search.step < 30 for search, _ in workers):
        for search, _ in workers:
            if search.step < 30:
                search.advance()
    judged = [asked for _, evaluator in workers for asked in evaluator.asked]
    assert len(judged) == len(set(judged))
    assert len({fidelity for _, fidelity in judged}) == 3
    assert len({architecture for architecture, _ in judged}) < len(judged)


def test_search_ends_if_there_are_fewer_architectures_than_steps(tmp_path) -> None:
    search, evaluator = worker(str(tmp_path / "s.log"), steps=20)
    few = [SPACE.architecture([i] * 6) for i in range(1, 4)]
    search.strategy.propose = lambda rng: few[int(rng.integers(3))]
    while search.step < 20:
        search.advance()
    assert len(evaluator.asked) == 3
    assert search.repeats == 17


def test_architecture_claimed_by_another_worker_is_not_evaluated(tmp_path) -> None:
    (first, _), (second, evaluator) = (worker(str(tmp_path / "s.log")) for _ in range(2))
    suggested = [SPACE.architecture([i] * 6) for i in range(1, 4)]
    first.strategy.suggested, second.strategy.suggested = list(suggested), list(suggested)
    with first.ledger.claim(Evaluation(suggested[0], 1.0), 0) as trial:
        assert trial is not None
        second.advance()
        with second.ledger.claim(Evaluation(suggested[0], 1.0), 0) as refused:
            assert refused is None, "the other worker has claimed it before"
    assert evaluator.asked == [(suggested[1], 1.0)]


def test_finished_evaluation_is_not_claimed_again(storage: str) -> None:
    """Another worker may finish it after it was proposed and before it is claimed."""
    evaluation = Evaluation(SPACE.architecture([1] * 6), 1.0)
    study = open_study(storage, "shared", "maximize", "storage")
    first, second = Ledger(study, SPACE), Ledger(study, SPACE)
    with first.claim(evaluation, 0) as claimed:
        first.finish(claimed, 0.5)
    with second.claim(evaluation, 0) as refused:
        assert refused is None


def test_lapsed_claim_that_is_claimed_again_can_no_longer_be_finished(storage: str) -> None:
    evaluation = Evaluation(SPACE.architecture([1] * 6), 1.0)
    study = open_study(storage, "shared", "maximize", "storage")
    slow, quick = Ledger(study, SPACE), Ledger(study, SPACE, claim_s=0.0)
    with slow.claim(evaluation, 0) as lapsed:
        quick.taken()
        time.sleep(0.01)
        with quick.claim(evaluation, 1) as claimed:
            slow.finish(lapsed, 0.25)
            quick.finish(claimed, 0.5)
    assert slow.scores() == {evaluation: 0.5}


@pytest.mark.parametrize("storage", ["journal"], indirect=True)
def test_no_evaluation_is_finished_twice_where_workers_race(storage: str) -> None:
    evaluations = [Evaluation(SPACE.architecture([i] * 6), 1.0) for i in range(1, 5)] * 3

    def work() -> None:
        ledger = Ledger(open_study(storage, "shared", "maximize", "storage"), SPACE)
        for evaluation in evaluations:
            with ledger.claim(evaluation, 0) as claimed:
                if claimed is not None:
                    ledger.finish(claimed, 0.5)

    with ThreadPoolExecutor() as pool:
        for worked in [pool.submit(work) for _ in range(4)]:
            worked.result()
    study = open_study(storage, "shared", "maximize", "storage")
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    options = [tuple(trial.user_attrs["options"]) for trial in done]
    assert len(options) == len(set(options)) == 4


def test_lapsed_claim_is_taken_over_until_the_attempts_are_used_up(storage: str) -> None:
    evaluation = Evaluation(SPACE.architecture([3, 3, 3, 3, 3, 3]), 1.0)
    study = open_study(storage, "shared", "maximize", "storage")
    first, second = (Ledger(study, SPACE, claim_s=0.01) for _ in range(2))
    for attempt in range(ATTEMPTS):
        trial = study.ask()
        for key, value in {
            "options": SPACE.chosen(evaluation.architecture),
            "fidelity": 1.0,
            "attempts": attempt + 1,
            "renewed": time.time(),
        }.items():
            trial.set_user_attr(key, value)
        assert first.take_over() is second.take_over() is None, "a claim cannot lapse at once"
        time.sleep(0.02)
        expected = (evaluation, attempt + 1) if attempt + 1 < ATTEMPTS else None
        assert first.take_over() == expected
        assert second.take_over() is None, "only one worker takes it over"
    assert not first.scores()
    assert evaluation in first.taken(), "it must not be tried again"


def test_claim_is_renewed_during_the_evaluation(storage: str) -> None:
    evaluation = Evaluation(SPACE.architecture([3, 3, 3, 3, 3, 3]), 1.0)
    study = open_study(storage, "shared", "maximize", "storage")
    working, other = Ledger(study, SPACE, claim_s=1.0), Ledger(study, SPACE, claim_s=1.0)
    with working.claim(evaluation, 0) as trial:
        for _ in range(8):
            assert other.taken() == {evaluation}
            assert other.take_over() is None
            time.sleep(0.25)
        working.finish(trial, 0.5)
    assert not other.taken()
    assert other.scores() == {evaluation: 0.5}
    assert working.new_scores() == [], "own evaluations are not new"
    assert other.new_scores() == [(evaluation, 0.5)]


def test_failed_evaluation_leaves_no_claim(storage: str) -> None:
    study = open_study(storage, "shared", "maximize", "storage")
    ledger = Ledger(study, SPACE)
    evaluation = Evaluation(SPACE.architecture([1] * 6), 1.0)
    with pytest.raises(KeyboardInterrupt), ledger.claim(evaluation, 0):
        raise KeyboardInterrupt
    assert not ledger.taken()
    assert ledger.take_over() is None
    assert not ledger.scores()
    states = [trial.state for trial in study.get_trials()]
    assert states == [optuna.trial.TrialState.FAIL]


def test_score_of_a_claim_that_was_taken_over_is_dropped(storage: str) -> None:
    study = open_study(storage, "shared", "maximize", "storage")
    slow, quick = Ledger(study, SPACE), Ledger(study, SPACE, claim_s=0.0)
    evaluation = Evaluation(SPACE.architecture([1] * 6), 1.0)

    def lose_the_claim() -> None:
        with slow.claim(evaluation, 0) as trial:
            quick.take_over()
            time.sleep(0.01)
            assert quick.take_over() == (evaluation, 1)
            slow.finish(trial, 0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lose_the_claim()
    assert not quick.scores()


def test_supernet_search_refuses_a_shared_storage() -> None:
    with pytest.raises(ValueError, match="not for supernet"):
        SearchConfig(steps=1, storage="s.log")


def test_storage_in_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_study(str(tmp_path / "no" / "s.log"), "shared", "maximize", "search.storage")
