"""The search loop without a supernet: one architecture is evaluated in each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from hwnas.architecture import Architecture
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.runs.loop import is_sparse_record, run_steps
from hwnas.runs.progress import Advance
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Outcome, SearchStrategy, probability_rows

STAGE = "search"
LOG_EVERY = 1


class Evaluator(Protocol):
    """Scores architectures, each once.

    Attributes:
        space: at the sizes that are evaluated.
        known: scores so far, of whole evaluations.
        perfect: the score that cannot be surpassed, or 0 where there is none.
    """

    space: SearchSpace
    known: dict[Architecture, float]
    perfect: float

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """The score of an architecture, the higher the better.

        Args:
            architecture: what is scored.
            fidelity: share of a whole evaluation, where it can be cut short.
        """

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """What candidates are compared by, 0 to 1."""


@dataclass
class EvaluatedSearch:
    """A strategy that proposes single architectures, each judged alone.

    Attributes:
        strategy: proposes and learns.
        evaluator: gives an architecture's score, the higher the better.
        limits: the budgets; strategies stay within them by themselves.
        config: settings; a step is one evaluation.
    """

    strategy: SearchStrategy
    evaluator: Evaluator
    limits: list[Limit]
    config: SearchConfig
    step: int = 0

    def run(self, folder: RunFolder, progress: Advance) -> None:
        """Evaluate to the end, from the newest checkpoint if there is one.

        Raises:
            Interrupted: after a signal; what was evaluated before is kept.
        """
        run_steps(
            self,
            folder,
            stage=STAGE,
            steps=self.config.steps,
            log_every=LOG_EVERY,
            checkpoint_every=1,
            progress=progress,
        )

    def advance(self) -> dict[str, Any]:
        """Evaluate one architecture."""
        architecture = self.evaluator.space.most_likely(self.strategy.ask())
        fidelity = self.strategy.fidelity
        score = self.evaluator(architecture, fidelity)
        self.step += 1
        return self.learn(architecture, fidelity, score)

    def learn(self, architecture: Architecture, fidelity: float, score: float) -> dict[str, Any]:
        """Tell the strategy of an evaluation; returns what the history says of it."""
        space = self.evaluator.space
        mixture = space.one_hot(architecture)
        loss = self.evaluator.perfect - score
        ratio = float(max(limit.ratio(mixture) for limit in self.limits))
        outcome = Outcome(loss, loss, ratio, lasting=True, fidelity=fidelity)
        self.strategy.tell(mixture, outcome, self.step / self.config.steps)
        record = {
            "loss": loss,
            "validation_loss": loss,
            "latency_ms": self.limits[0].cost.latency_ms(architecture),
            "entropy": self.strategy.entropy(),
            "architecture": space.to_genotype(architecture),
        }
        if is_sparse_record(self.step, self.config.steps, LOG_EVERY):
            record["probabilities"] = probability_rows(self.strategy)
        return record

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """What candidates are compared by, 0 to 1."""
        return self.evaluator.rank(architectures)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed search needs."""
        known = self.evaluator.space.to_rows(self.evaluator.known.items())
        return {"step": self.step, "strategy": self.strategy.state_dict(), "known": known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.step = state["step"]
        self.strategy.load_state_dict(state["strategy"])
        self.evaluator.known.update(self.evaluator.space.from_rows(state["known"]))
