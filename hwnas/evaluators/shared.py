"""One search by several processes: each proposes and judges, all learn from everything.

The processes know each other only by a study in a storage that all can reach. An evaluation is
claimed before it begins, and the claim is renewed while it runs; where that stops, the process has
died, and another takes the architecture over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from hwnas.architecture import Architecture
from hwnas.evaluators.loop import EvaluatedSearch
from hwnas.spaces.base import SearchSpace

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

CLAIM_S = 30.0
"""How long a claim holds that is not renewed."""
ATTEMPTS = 3
"""Processes that may die on an architecture before it is given up."""
PROPOSALS = 20
"""Tries to propose what no other process has judged or claimed."""


class Ledger:
    """Who judges what, and what came of it.

    Args:
        study: shared; trials hold the options taken, the fidelity and the end of the claim.
        space: the search space.
        claim_s: how long a claim holds that is not renewed.

    Attributes:
        seen: numbers of the finished trials that `news` has told of, or that are this process's.
    """

    def __init__(self, study: Study, space: SearchSpace, claim_s: float = CLAIM_S) -> None:
        self.study = study
        self.space = space
        self.claim_s = claim_s
        self.seen: set[int] = set()

    def news(self) -> list[tuple[Architecture, float, float]]:
        """Architecture, fidelity and score of what other processes judged since the last call."""
        found = []
        for trial in self._trials("COMPLETE"):
            if trial.number not in self.seen and trial.value is not None:
                self.seen.add(trial.number)
                architecture = self._architecture(trial)
                found.append((architecture, trial.user_attrs["fidelity"], trial.value))
        return found

    def finished(self) -> int:
        """How many evaluations are done, of all processes."""
        return len(self._trials("COMPLETE"))

    def claimed(self) -> set[Architecture]:
        """What is being judged."""
        return {self._architecture(trial) for trial in self._claims() if not self._lapsed(trial)}

    def take_over(self) -> tuple[Architecture, float, int] | None:
        """Architecture, fidelity and attempts so far of a claim that has lapsed; None without."""
        from optuna.trial import TrialState

        for trial in self._claims():
            if not self._lapsed(trial):
                continue
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except ValueError:
                continue  # Another process was faster.
            if trial.user_attrs["attempts"] < ATTEMPTS:
                attrs = trial.user_attrs
                return self._architecture(trial), attrs["fidelity"], attrs["attempts"]
        return None

    @contextmanager
    def claim(self, architecture: Architecture, fidelity: float, attempts: int) -> Iterator[Trial]:
        """A trial of this process; it is renewed inside, and failed when an exception leaves."""
        from optuna.trial import TrialState

        trial = self.study.ask()
        for key, value in {
            "options": self.space.chosen(architecture),
            "fidelity": fidelity,
            "attempts": attempts + 1,
            "until": time.time() + self.claim_s,
        }.items():
            trial.set_user_attr(key, value)
        stopped = Event()

        def renew() -> None:
            while not stopped.wait(self.claim_s / 3):
                trial.set_user_attr("until", time.time() + self.claim_s)

        thread = Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield trial
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        finally:
            stopped.set()
            thread.join()

    def finish(self, trial: Trial, score: float) -> None:
        """Record the score of a claimed architecture, unless another process took it over."""
        self.study.tell(trial, score, skip_if_finished=True)
        self.seen.add(trial.number)

    def _trials(self, state: str) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState[state],))

    def _claims(self) -> list[FrozenTrial]:
        # A trial without the end of its claim is about to get it.
        return [trial for trial in self._trials("RUNNING") if "until" in trial.user_attrs]

    def _lapsed(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs["until"] < time.time())

    def _architecture(self, trial: FrozenTrial) -> Architecture:
        return self.space.architecture(list(trial.user_attrs["options"]))


@dataclass
class SharedSearch(EvaluatedSearch):
    """A search that shares its evaluations with others; `step` counts those of all.

    Attributes:
        ledger: what all know.
    """

    ledger: Ledger = field(kw_only=True)

    def advance(self) -> dict[str, Any]:
        """Learn what others found, then evaluate one architecture."""
        records = [self._learn_of_others(*figures) for figures in self.ledger.news()]
        self.step = self.ledger.finished()
        if records and self.step >= self.config.steps:
            return records[-1]
        architecture, fidelity, attempts = self.ledger.take_over() or self._proposal()
        if fidelity == 1 and architecture in self.evaluator.known:
            return self.learn(architecture, fidelity, self.evaluator.known[architecture])
        with self.ledger.claim(architecture, fidelity, attempts) as trial:
            score = self.evaluator(architecture, fidelity)
            self.ledger.finish(trial, score)
        self.step = self.ledger.finished()
        return self.learn(architecture, fidelity, score)

    def _learn_of_others(
        self, architecture: Architecture, fidelity: float, score: float
    ) -> dict[str, Any]:
        if fidelity == 1:
            self.evaluator.known[architecture] = score
        return self.learn(architecture, fidelity, score)

    def _proposal(self) -> tuple[Architecture, float, int]:
        """What no other process has judged or claimed, if the strategy proposes such."""
        claimed = self.ledger.claimed()
        for _ in range(PROPOSALS):
            architecture = self.evaluator.space.most_likely(self.strategy.ask())
            if architecture not in claimed and architecture not in self.evaluator.known:
                break
        return architecture, self.strategy.fidelity, 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"seen": sorted(self.ledger.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.ledger.seen = set(state["seen"])
