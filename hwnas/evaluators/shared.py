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
from uuid import uuid4

from hwnas.architecture import Architecture
from hwnas.evaluators.loop import EvaluatedSearch
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.sampled import SampledStrategy

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, TrialState

logger = logging.getLogger(__name__)

CLAIM_S = 30.0
"""Seconds after which a claim lapses unless it is renewed."""
ATTEMPTS = 3
"""Number of lapsed claims after which an evaluation is not tried again."""
PROPOSALS = 20
"""Largest number of proposals per step to find one that no process has evaluated or claimed."""
RETRY_S = 0.3
"""Seconds until the next proposal where another process was faster."""


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
            number of attempts, a unique token and the time of the latest renewal as attributes.
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
        claimed = {self._evaluation(t) for t in self._trials("RUNNING") if not self._has_lapsed(t)}
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

        for trial in self._trials("RUNNING"):
            if self._has_lapsed(trial) and self._end(trial.number, state=TrialState.FAIL):
                attempts = int(trial.user_attrs["attempts"])
                if attempts < ATTEMPTS:
                    return self._evaluation(trial), attempts
        return None

    @contextmanager
    def claim(self, evaluation: Evaluation, attempts: int) -> Iterator[int | None]:
        """Claim an evaluation for the duration of the block.

        The claim is renewed in a background thread, and marked as failed if an exception leaves
        the block. Of several claims to one evaluation, at most one is ever completed: a claim is
        written as a whole before others are looked at, and only the earliest one stands.

        Args:
            evaluation: the evaluation to claim.
            attempts: number of earlier attempts.

        Yields:
            The number of the claim's trial; None if another process has claimed or finished the
            evaluation before.
        """
        from optuna.trial import TrialState

        claim = self._write_claim(evaluation, attempts)
        if self._is_preceded(claim):
            self._end(claim.number, state=TrialState.FAIL)
            yield None
            return
        stopped = Event()
        thread = Thread(target=self._renew, args=(claim, stopped), daemon=True)
        thread.start()
        try:
            yield claim.number
        except BaseException:
            self._end(claim.number, state=TrialState.FAIL)
            raise
        finally:
            stopped.set()
            thread.join()

    def finish(self, number: int, score: float) -> None:
        """Record the score of a claimed evaluation, unless another process has taken it over.

        Args:
            number: number of the claim's trial.
            score: score of the evaluation.
        """
        self._end(number, score)
        self.seen.add(number)

    def _write_claim(self, evaluation: Evaluation, attempts: int) -> FrozenTrial:
        """Write a claim with all its attributes at once, so that nobody sees a part of it."""
        from optuna.trial import TrialState, create_trial

        token = uuid4().hex
        attributes = {
            "options": self.space.chosen(evaluation.architecture),
            "fidelity": evaluation.fidelity,
            "attempts": attempts + 1,
            "token": token,
            "renewed": time.time(),
        }
        self.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        trials = reversed(self.study.get_trials(deepcopy=False))
        return next(trial for trial in trials if trial.user_attrs.get("token") == token)

    def _is_preceded(self, claim: FrozenTrial) -> bool:
        """Return whether another claim to the same evaluation stands or is completed.

        Lapsed claims are ended, so that their processes, if they are alive, cannot complete them.
        """
        from optuna.trial import TrialState

        evaluation = self._evaluation(claim)
        for other in self._trials("RUNNING", "COMPLETE"):
            if other.number == claim.number or self._evaluation(other) != evaluation:
                continue
            if other.state == TrialState.COMPLETE:
                return True
            if other.number < claim.number and not (
                self._has_lapsed(other) and self._end(other.number, state=TrialState.FAIL)
            ):
                return True
        return False

    def _renew(self, claim: FrozenTrial, stopped: Event) -> None:
        """Renew a claim at regular intervals until the event is set."""
        from optuna.trial import Trial

        trial = Trial(self.study, claim._trial_id)
        while not stopped.wait(self.claim_s / 3):
            try:
                trial.set_user_attr("renewed", time.time())
            except Exception as error:  # any storage driver's; the next renewal may succeed
                logger.warning("a claim could not be renewed: %s", error)

    def _end(
        self, number: int, score: float | None = None, state: TrialState | None = None
    ) -> bool:
        """End a trial; return False if another process has ended it before."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.study.tell(number, score, state=state)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def _trials(self, *states: str) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        wanted = tuple(TrialState[state] for state in states)
        return self.study.get_trials(deepcopy=False, states=wanted)

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
            with self.ledger.claim(evaluation, attempts) as claimed:
                if claimed is not None:
                    score = self.evaluator(evaluation.architecture, evaluation.fidelity)
                    self.ledger.finish(claimed, score)
                    self._count()
                    return self._learn(evaluation, score)
            time.sleep(RETRY_S)

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
