"""One search by several processes: each proposes and judges, all learn from everything.

The processes know each other only by a study in a storage that all can reach. An evaluation is
claimed before it begins, and the claim is renewed while it runs; where that stops, the process has
died, and another takes the architecture over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from hwnas.architecture import Architecture
from hwnas.evaluators.loop import EvaluatedSearch
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.sampled import SampledStrategy

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial, TrialState

logger = logging.getLogger(__name__)

CLAIM_S = 30.0
"""How long a claim holds that is not renewed."""
ATTEMPTS = 3
"""Processes that may die on an architecture before it is given up."""
PROPOSALS = 20
"""Tries to propose what no other process has judged or claimed."""


class Evaluation(NamedTuple):
    """What can be judged once.

    Attributes:
        architecture: what is judged.
        fidelity: share of a whole evaluation.
    """

    architecture: Architecture
    fidelity: float


class Ledger:
    """Who judges what, and what came of it.

    Args:
        study: shared; trials hold the options taken, the fidelity and when the claim was renewed.
        space: the search space.
        claim_s: how long a claim holds that is not renewed, by this process's clock.

    Attributes:
        seen: numbers of the finished trials that `news` has told of, or that are this process's.
    """

    def __init__(self, study: Study, space: SearchSpace, claim_s: float = CLAIM_S) -> None:
        self.study = study
        self.space = space
        self.claim_s = claim_s
        self.seen: set[int] = set()
        self._watched: dict[int, tuple[float, float]] = {}
        self._evaluations: dict[int, Evaluation] = {}

    def news(self) -> list[tuple[Evaluation, float]]:
        """What other processes judged since the last call, with its score."""
        found = []
        for trial in self._trials("COMPLETE"):
            if trial.number not in self.seen and trial.value is not None:
                self.seen.add(trial.number)
                found.append((self._evaluation(trial), trial.value))
        return found

    def scores(self) -> dict[Evaluation, float]:
        """Everything that was judged."""
        trials = self._trials("COMPLETE")
        return {self._evaluation(t): t.value for t in trials if t.value is not None}

    def taken(self) -> set[Evaluation]:
        """What is being judged, and what too many processes have died on."""
        claimed = {self._evaluation(t) for t in self._claims() if not self._has_lapsed(t)}
        failed = self._trials("FAIL")
        return claimed | {
            self._evaluation(t) for t in failed if t.user_attrs.get("attempts", 0) >= ATTEMPTS
        }

    def take_over(self) -> tuple[Evaluation, int] | None:
        """What a lapsed claim was for, and the attempts so far; None where there is none."""
        from optuna.trial import TrialState

        for trial in self._claims():
            if self._has_lapsed(trial) and self._end(trial.number, state=TrialState.FAIL):
                attempts = int(trial.user_attrs["attempts"])
                if attempts < ATTEMPTS:
                    return self._evaluation(trial), attempts
        return None

    @contextmanager
    def claim(self, evaluation: Evaluation, attempts: int) -> Iterator[Trial | None]:
        """A trial of this process, renewed inside and failed when an exception leaves; None when
        another process claimed the same before.
        """
        from optuna.trial import TrialState

        trial = self.study.ask()
        for key, value in {
            "options": self.space.chosen(evaluation.architecture),
            "fidelity": evaluation.fidelity,
            "attempts": attempts + 1,
            "renewed": time.time(),
        }.items():
            trial.set_user_attr(key, value)
        if any(
            other.number < trial.number
            and self._evaluation(other) == evaluation
            and not self._has_lapsed(other)
            for other in self._claims()
        ):
            self._end(trial, state=TrialState.FAIL)
            yield None
            return
        stopped = Event()
        thread = Thread(target=self._renew, args=(trial, stopped), daemon=True)
        thread.start()
        try:
            yield trial
        except BaseException:
            self._end(trial, state=TrialState.FAIL)
            raise
        finally:
            stopped.set()
            thread.join()

    def finish(self, trial: Trial, score: float) -> None:
        """Record the score of what was claimed, unless another process took it over."""
        self._end(trial, score)
        self.seen.add(trial.number)

    def _renew(self, trial: Trial, stopped: Event) -> None:
        while not stopped.wait(self.claim_s / 3):
            try:
                trial.set_user_attr("renewed", time.time())
            except Exception as error:  # of whichever driver; the next time may go well
                logger.warning("a claim was not renewed: %s", error)

    def _end(
        self, trial: Trial | int, score: float | None = None, state: TrialState | None = None
    ) -> bool:
        """End a trial; False when another process did so before."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.study.tell(trial, score, state=state)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def _trials(self, state: str) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState[state],))

    def _claims(self) -> list[FrozenTrial]:
        # The mark of renewal is written last: a trial without it is about to get it.
        return [trial for trial in self._trials("RUNNING") if "renewed" in trial.user_attrs]

    def _has_lapsed(self, trial: FrozenTrial) -> bool:
        """Whether the claim was not renewed for long; clocks of machines need not agree."""
        renewed, now = trial.user_attrs["renewed"], time.monotonic()
        if self._watched.get(trial.number, (None, 0.0))[0] != renewed:
            self._watched[trial.number] = renewed, now
        return now - self._watched[trial.number][1] > self.claim_s

    def _evaluation(self, trial: FrozenTrial) -> Evaluation:
        """What a trial is about; read once, since that of a trial never changes."""
        if trial.number not in self._evaluations:
            attrs = trial.user_attrs
            architecture = self.space.architecture(list(attrs["options"]))
            self._evaluations[trial.number] = Evaluation(architecture, attrs["fidelity"])
        return self._evaluations[trial.number]


@dataclass
class SharedSearch(EvaluatedSearch):
    """A search that shares its evaluations with others.

    Attributes:
        step: evaluations of all processes, and this one's proposals that were judged already.
        repeats: the latter.
        ledger: what all know.
    """

    repeats: int = 0
    ledger: Ledger = field(kw_only=True)

    def advance(self) -> dict[str, Any]:
        """Learn what others found, then evaluate one architecture."""
        records = [self._learn(evaluation, score) for evaluation, score in self.ledger.news()]
        if records and self._count() >= self.config.steps:
            return records[-1]
        while True:
            evaluation, attempts = self.ledger.take_over() or (self._proposal(), 0)
            known = self.ledger.scores().get(evaluation)
            if known is not None:
                self.repeats += 1
                self._count()
                return self._learn(evaluation, known)
            with self.ledger.claim(evaluation, attempts) as trial:
                if trial is not None:
                    score = self.evaluator(evaluation.architecture, evaluation.fidelity)
                    self.ledger.finish(trial, score)
                    self._count()
                    return self._learn(evaluation, score)

    def _count(self) -> int:
        self.step = len(self.ledger.scores()) + self.repeats
        return self.step

    def _learn(self, evaluation: Evaluation, score: float) -> dict[str, Any]:
        if evaluation.fidelity == 1:
            self.evaluator.known[evaluation.architecture] = score
        return self.learn(evaluation.architecture, evaluation.fidelity, score)

    def _proposal(self) -> Evaluation:
        """What no other process judges or has judged, if the strategy proposes such."""
        taken = self.ledger.taken() | set(self.ledger.scores())
        for _ in range(PROPOSALS):
            architecture = self.evaluator.space.most_likely(self.strategy.ask())
            proposed = Evaluation(architecture, self.strategy.fidelity)
            if proposed not in taken:
                break
            if isinstance(self.strategy, SampledStrategy):
                self.strategy.skip(architecture)
        return proposed

    def state_dict(self) -> dict[str, Any]:
        counts = {"seen": sorted(self.ledger.seen), "repeats": self.repeats}
        return super().state_dict() | counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.ledger.seen = set(state["seen"])
        self.repeats = int(state["repeats"])
