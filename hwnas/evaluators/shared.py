"""One search by several processes, which share their evaluations through a common storage.

Each process proposes and evaluates architectures and learns from the evaluations of all. The
processes communicate only through an Optuna study in a storage that all of them can access. An
evaluation is claimed before it begins, and the claim is renewed while it runs. If a claim is not
renewed for some time, its process has presumably died, and another one takes the evaluation over.
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
"""Seconds after which a claim lapses unless it is renewed."""
ATTEMPTS = 3
"""Number of lapsed claims after which an evaluation is not tried again."""
PROPOSALS = 20
"""Largest number of proposals per step to find one that no process has evaluated or claimed."""


class Evaluation(NamedTuple):
    """An architecture at a fidelity, which is evaluated at most once.

    Attributes:
        architecture: the architecture.
        fidelity: fraction of a full evaluation.
    """

    architecture: Architecture
    fidelity: float


class Ledger:
    """The shared record of claimed and finished evaluations.

    Args:
        study: the shared study. Each trial is a claim, with the chosen options, the fidelity, the
            number of attempts and the time of the latest renewal as attributes.
        space: the search space.
        claim_s: seconds after which a claim lapses unless it is renewed.

    Attributes:
        seen: numbers of the finished trials that `new_scores` has returned or that this process
            evaluated itself.
    """

    def __init__(self, study: Study, space: SearchSpace, claim_s: float = CLAIM_S) -> None:
        self.study = study
        self.space = space
        self.claim_s = claim_s
        self.seen: set[int] = set()
        self._watched: dict[int, tuple[float, float]] = {}
        self._evaluations: dict[int, Evaluation] = {}

    def new_scores(self) -> list[tuple[Evaluation, float]]:
        """Return the evaluations that other processes finished since the last call."""
        found = []
        for trial in self._trials("COMPLETE"):
            if trial.number not in self.seen and trial.value is not None:
                self.seen.add(trial.number)
                found.append((self._evaluation(trial), trial.value))
        return found

    def scores(self) -> dict[Evaluation, float]:
        """Return the scores of all finished evaluations."""
        trials = self._trials("COMPLETE")
        return {self._evaluation(t): t.value for t in trials if t.value is not None}

    def taken(self) -> set[Evaluation]:
        """Return the evaluations that are claimed or have failed too often."""
        claimed = {self._evaluation(t) for t in self._claims() if not self._has_lapsed(t)}
        failed = self._trials("FAIL")
        return claimed | {
            self._evaluation(t) for t in failed if t.user_attrs.get("attempts", 0) >= ATTEMPTS
        }

    def take_over(self) -> tuple[Evaluation, int] | None:
        """Take over the evaluation of a lapsed claim.

        Returns:
            The evaluation and the number of attempts so far; None if there is none to take over.
        """
        from optuna.trial import TrialState

        for trial in self._claims():
            if self._has_lapsed(trial) and self._end(trial.number, state=TrialState.FAIL):
                attempts = int(trial.user_attrs["attempts"])
                if attempts < ATTEMPTS:
                    return self._evaluation(trial), attempts
        return None

    @contextmanager
    def claim(self, evaluation: Evaluation, attempts: int) -> Iterator[Trial | None]:
        """Claim an evaluation for the duration of the block.

        The claim is renewed in a background thread, and marked as failed if an exception leaves
        the block.

        Args:
            evaluation: the evaluation to claim.
            attempts: number of earlier attempts.

        Yields:
            The trial of the claim; None if another process has claimed the evaluation before.
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
        """Record the score of a claimed evaluation, unless another process has taken it over."""
        self._end(trial, score)
        self.seen.add(trial.number)

    def _renew(self, trial: Trial, stopped: Event) -> None:
        """Renew a claim at regular intervals until the event is set."""
        while not stopped.wait(self.claim_s / 3):
            try:
                trial.set_user_attr("renewed", time.time())
            except Exception as error:  # any storage driver's; the next renewal may succeed
                logger.warning("a claim could not be renewed: %s", error)

    def _end(
        self, trial: Trial | int, score: float | None = None, state: TrialState | None = None
    ) -> bool:
        """End a trial; return False if another process has ended it before."""
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
        # The time of renewal is written last, so a trial without it is still being set up.
        return [trial for trial in self._trials("RUNNING") if "renewed" in trial.user_attrs]

    def _has_lapsed(self, trial: FrozenTrial) -> bool:
        """Return whether this process has seen no renewal of a claim for too long.

        Only this process's clock is used, because the clocks of machines can differ.
        """
        renewed, now = trial.user_attrs["renewed"], time.monotonic()
        if self._watched.get(trial.number, (None, 0.0))[0] != renewed:
            self._watched[trial.number] = renewed, now
        return now - self._watched[trial.number][1] > self.claim_s

    def _evaluation(self, trial: FrozenTrial) -> Evaluation:
        """Return the evaluation of a trial, which never changes and is therefore cached."""
        if trial.number not in self._evaluations:
            attrs = trial.user_attrs
            architecture = self.space.architecture(list(attrs["options"]))
            self._evaluations[trial.number] = Evaluation(architecture, attrs["fidelity"])
        return self._evaluations[trial.number]


@dataclass
class SharedSearch(EvaluatedSearch):
    """A search that shares its evaluations with other processes.

    Attributes:
        step: number of evaluations of all processes, plus `repeats`.
        repeats: number of this process's proposals that had been evaluated before.
        ledger: the shared record of evaluations.
    """

    repeats: int = 0
    ledger: Ledger = field(kw_only=True)

    def advance(self) -> dict[str, Any]:
        """Learn from the new evaluations of other processes, then evaluate one architecture.

        Returns:
            A record for the history.
        """
        records = [self._learn(evaluation, score) for evaluation, score in self.ledger.new_scores()]
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
        """Update and return the number of steps."""
        self.step = len(self.ledger.scores()) + self.repeats
        return self.step

    def _learn(self, evaluation: Evaluation, score: float) -> dict[str, Any]:
        if evaluation.fidelity == 1:
            self.evaluator.known[evaluation.architecture] = score
        return self.learn(evaluation.architecture, evaluation.fidelity, score)

    def _proposal(self) -> Evaluation:
        """Return a proposal that, if possible, no process has evaluated or claimed."""
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
