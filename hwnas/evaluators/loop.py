"""The search loop without a supernet: each step evaluates one architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from hwnas.architecture import Architecture
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.evaluators.recipes import Recipes
from hwnas.evaluators.stopping import Stopping
from hwnas.runs.loop import is_sparse_record, run_steps
from hwnas.runs.progress import Advance
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Outcome, SearchStrategy, probability_rows

STAGE = "search"
LOG_EVERY = 1


class Evaluator(Protocol):
    """Scores architectures and remembers the scores.

    Attributes:
        space: the search space at the sizes that are evaluated.
        known: scores of all evaluations at full fidelity so far.
        perfect: the highest possible score, or 0 if scores are unbounded.
    """

    space: SearchSpace
    known: dict[Architecture, float]
    perfect: float

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """Return the score of an architecture; higher is better.

        Args:
            architecture: the architecture.
            fidelity: fraction of a full evaluation, such as of its epochs. Evaluators with a
                single fidelity ignore it.
        """

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Return values by which final candidates are compared, 0 to 1."""


@dataclass
class EvaluatedSearch:
    """A search by a strategy that proposes single architectures.

    Attributes:
        strategy: proposes architectures and learns from their scores.
        evaluator: scores architectures.
        limits: the latency budgets, which the strategies themselves respect.
        config: settings.
        step: number of evaluations done.
        recipes: what the evaluator takes settings of trainings from; None where none are searched.
        stopping: ends the search before its last step.
    """

    strategy: SearchStrategy
    evaluator: Evaluator
    limits: list[Limit]
    config: SearchConfig
    step: int = 0
    recipes: Recipes | None = None
    stopping: Stopping = field(init=False)

    def __post_init__(self) -> None:
        self.stopping = Stopping.of(self.config)

    def run(self, folder: RunFolder, progress: Advance) -> None:
        """Search to the end, starting from the newest checkpoint if there is one.

        Args:
            folder: folder of the run, for checkpoints and the history.
            progress: called after each step.

        Raises:
            Interrupted: a signal was received; completed evaluations have been saved.
        """
        run_steps(
            self,
            folder,
            stage=STAGE,
            steps=self.config.steps,
            log_every=LOG_EVERY,
            checkpoint_every=1,
            progress=progress,
            describe=self.limits[0].describe_step,
            ended=lambda spent_s: self.stopping.reason(self.step, spent_s),
        )

    def advance(self) -> dict[str, Any]:
        """Evaluate one architecture and return a record for the history."""
        architecture = self.evaluator.space.most_likely(self.strategy.ask())
        fidelity = self.strategy.fidelity
        score = self.evaluator(architecture, fidelity)
        self.step += 1
        return self.learn(architecture, fidelity, score)

    def learn(self, architecture: Architecture, fidelity: float, score: float) -> dict[str, Any]:
        """Report an evaluation to the strategy and return a record for the history.

        Args:
            architecture: the evaluated architecture.
            fidelity: fidelity of the evaluation.
            score: its score.
        """
        if fidelity == 1:
            self.stopping.saw(score, self.step)
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
        if self.recipes is not None:
            record["recipe"] = self.recipes.trials[-1][0]
        if (weight := self.strategy.size_weight()) is not None:
            record["size_weight"] = weight
        if is_sparse_record(self.step, self.config.steps, LOG_EVERY):
            record["probabilities"] = probability_rows(self.strategy)
        return record

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Return values by which final candidates are compared, 0 to 1."""
        return self.evaluator.rank(architectures)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to resume the search."""
        known = self.evaluator.space.to_rows(self.evaluator.known.items())
        return {
            "step": self.step,
            "strategy": self.strategy.state_dict(),
            "known": known,
            "stopping": self.stopping.state_dict(),
            "recipes": self.recipes and self.recipes.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.step = state["step"]
        self.strategy.load_state_dict(state["strategy"])
        self.stopping.load_state_dict(state["stopping"])
        if self.recipes is not None:
            self.recipes.load(state["recipes"])
        self.evaluator.known.update(self.evaluator.space.from_rows(state["known"]))
