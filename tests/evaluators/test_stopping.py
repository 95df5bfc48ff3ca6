"""A search ends early for its time, its score or a lack of progress, says why, and stays ended."""

from __future__ import annotations

import itertools
import time

import pytest
from helpers.tiny import decoder_of, table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig, load_config
from hwnas.errors import InputError
from hwnas.evaluators.loop import EvaluatedSearch
from hwnas.evaluators.stopping import Stopping
from hwnas.runs.run_folder import RunFolder
from hwnas.strategies import build_strategy

SPACE = tiny_space("nasbench201")
LIMIT = Limit(CostModel(SPACE, table_of(SPACE)), budget_ms=1e6)


class Scores:
    """An evaluator with the scores that it is given, one after the other."""

    space, perfect = SPACE, 1.0

    def __init__(self, scores, seconds: float = 0.0) -> None:
        self.scores, self.seconds, self.known, self.calls = iter(scores), seconds, {}, 0

    def __call__(self, architecture, fidelity: float = 1.0) -> float:
        time.sleep(self.seconds)
        self.calls += 1
        self.known[architecture] = next(self.scores)
        return self.known[architecture]

    def rank(self, architectures):
        return [0.0 for _ in architectures]


def searched(folder: RunFolder, evaluator: Scores, **settings) -> list[dict]:
    """The events of a search's early end, after it has run in a folder."""
    config = SearchConfig(evaluator="zero-cost", strategy="random", **settings)
    strategy = build_strategy("random", SPACE, 0, {}, decoder_of(SPACE))
    EvaluatedSearch(strategy, evaluator, [LIMIT], config).run(folder, lambda *_: None)
    return [r for r in folder.read_history() if r["event"] == "ended"]


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create()
    return made


def test_a_search_ends_when_its_score_is_reached(folder) -> None:
    evaluator = Scores([0.2, 0.5, 0.91, 0.95])
    (end,) = searched(folder, evaluator, steps=4, until=0.9)
    assert (end["stage"], end["step"]) == ("search", 3)
    assert "0.91" in end["reason"]
    assert "search.until" in end["reason"]
    again = Scores([])
    assert searched(folder, again, steps=4, until=0.9) == [end], "a resumed search stays ended"
    assert again.calls == 0


def test_a_search_ends_without_progress(folder) -> None:
    evaluator = Scores([0.5, 0.4, 0.6, 0.6, 0.1, 0.2, 0.9])
    (end,) = searched(folder, evaluator, steps=7, patience=3)
    assert end["step"] == evaluator.calls == 6
    assert "search.patience = 3" in end["reason"]


def test_patience_begins_with_the_first_full_evaluation() -> None:
    """Before it, with Hyperband's short ones alone, there is no score to be better than."""
    stopping = Stopping(None, None, patience=3)
    assert stopping.reason(9, 0.0) is None
    stopping.saw(0.5, 9)
    assert stopping.reason(11, 0.0) is None
    assert stopping.reason(12, 0.0) == "no better score in search.patience = 3 evaluations"


def test_long_evaluations_miss_a_limit_of_time_by_half_of_one_at_most(folder) -> None:
    """A third evaluation of 0.4 s would end at 1.2 s, and the limit is 0.9 s."""
    slow = Scores(itertools.repeat(0.5), seconds=0.4)
    (end,) = searched(folder, slow, steps=1000, minutes=0.9 / 60)
    assert slow.calls <= 2
    assert "search.minutes" in end["reason"]


def test_the_time_before_an_interruption_counts(folder) -> None:
    slow = Scores(itertools.repeat(0.5), seconds=0.05)
    (end,) = searched(folder, slow, steps=1000, minutes=0.5 / 60)
    assert 1 <= slow.calls <= 10, "ten evaluations take at least half a second"
    assert "search.minutes" in end["reason"]
    more = Scores(itertools.repeat(0.5), seconds=0.05)
    ends = searched(folder, more, steps=1000, minutes=0.7 / 60)
    assert more.calls <= 4
    assert len(ends) == 2


def test_a_search_that_reaches_its_last_step_says_nothing(folder) -> None:
    assert searched(folder, Scores([0.1, 0.2]), steps=2, until=0.9, patience=5) == []


def test_a_supernet_s_scores_are_not_final() -> None:
    for setting in ("until=0.9", "patience=3"):
        with pytest.raises(InputError, match="single architectures"):
            load_config("default", [f"search.{setting}", "search.evaluator='supernet'"])
