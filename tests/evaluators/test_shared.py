"""Several processes search as one: nothing is judged twice, a dead one's work is taken over."""

from __future__ import annotations

import time

import optuna
import pytest
from tiny import table_of, tiny_space

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.errors import InputError
from hwnas.evaluators.shared import ATTEMPTS, Ledger, SharedSearch
from hwnas.evaluators.storage import open_study
from hwnas.strategies import build_strategy

SPACE = tiny_space("nasbench201")
LIMIT = Limit(CostModel(SPACE, table_of(SPACE)))


class Counted:
    """Counts what it is asked; the score is the share of 3x3 convolutions."""

    space = SPACE
    perfect = 1.0

    def __init__(self) -> None:
        self.known: dict[Architecture, float] = {}
        self.asked: list[Architecture] = []

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        self.asked.append(architecture)
        self.known[architecture] = SPACE.chosen(architecture).count(3) / 6
        return self.known[architecture]

    def rank(self, architectures: list[Architecture]) -> list[float]:
        return [self(architecture) for architecture in architectures]


@pytest.fixture(params=["journal", "database"])
def storage(request, tmp_path) -> str:
    return str(tmp_path / "s.log") if request.param == "journal" else f"sqlite:///{tmp_path}/s.db"


def worker(storage: str, name: str = "random", steps: int = 20) -> tuple[SharedSearch, Counted]:
    study = open_study(storage, "shared", "maximize", "storage")
    evaluator = Counted()
    strategy = build_strategy(name, SPACE, 0, {}, Decoder([LIMIT]))
    config = SearchConfig(steps=steps, evaluator="zero-cost")
    ledger = Ledger(study, SPACE)
    return SharedSearch(strategy, evaluator, [LIMIT], config, ledger=ledger), evaluator


def test_equal_searches_share_the_work_and_learn_the_same(storage: str) -> None:
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
    assert late.step == 20 and not evaluator.asked
    best = {search.strategy.best(Decoder([LIMIT]))[0] for search, _ in [*workers, (late, None)]}
    assert len({SPACE.chosen(a).count(3) for a in best}) == 1


@pytest.mark.parametrize("name", ["evolution", "tpe", "bayesian", "hyperband", "reinforce"])
def test_strategies_learn_from_what_others_judged(name: str, tmp_path) -> None:
    storage = str(tmp_path / "s.log")
    first, _ = worker(storage, name, steps=30)
    while first.step < 30:
        first.advance()
    second, _ = worker(storage, name, steps=32)
    second.advance()
    assert second.step == 31
    assert len(second.strategy.records) == 31


def test_a_lapsed_claim_is_taken_over_and_given_up_in_the_end(storage: str) -> None:
    architecture = SPACE.architecture([3, 3, 3, 3, 3, 3])
    study = open_study(storage, "shared", "maximize", "storage")
    dead = Ledger(study, SPACE, claim_s=0.0)
    living = Ledger(study, SPACE)
    for attempt in range(ATTEMPTS):
        trial = study.ask()
        for key, value in {
            "options": SPACE.chosen(architecture),
            "fidelity": 1.0,
            "attempts": attempt + 1,
            "until": time.time() - 1.0,
        }.items():
            trial.set_user_attr(key, value)
        expected = (architecture, 1.0, attempt + 1) if attempt + 1 < ATTEMPTS else None
        assert living.take_over() == expected
        assert dead.take_over() is None, "it is taken over once"
    assert living.finished() == 0


def test_a_claim_is_renewed_while_the_work_goes_on(storage: str) -> None:
    architecture = SPACE.architecture([3, 3, 3, 3, 3, 3])
    study = open_study(storage, "shared", "maximize", "storage")
    working = Ledger(study, SPACE, claim_s=1.0)
    with working.claim(architecture, 1.0, 0) as trial:
        time.sleep(2.0)
        assert working.claimed() == {architecture}
        assert working.take_over() is None
        working.finish(trial, 0.5)
    assert not working.claimed() and working.finished() == 1
    assert working.news() == [], "one's own is no news"
    assert Ledger(study, SPACE).news() == [(architecture, 1.0, 0.5)]


def test_a_failed_evaluation_leaves_no_claim(storage: str) -> None:
    study = open_study(storage, "shared", "maximize", "storage")
    ledger = Ledger(study, SPACE)
    with pytest.raises(KeyboardInterrupt), ledger.claim(SPACE.architecture([1] * 6), 1.0, 0):
        raise KeyboardInterrupt
    assert not ledger.claimed() and ledger.take_over() is None and ledger.finished() == 0
    states = [trial.state for trial in study.get_trials()]
    assert states == [optuna.trial.TrialState.FAIL]


def test_a_supernet_cannot_be_shared_so() -> None:
    with pytest.raises(ValueError, match="not for supernet"):
        SearchConfig(steps=1, storage="s.log")


def test_a_storage_that_cannot_be_opened_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_study(str(tmp_path / "no" / "s.log"), "shared", "maximize", "search.storage")
