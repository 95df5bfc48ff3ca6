"""Successive halving among the finalists of a search.

All finalists are trained for a few epochs, the better half goes on, and so forth (Jamieson &
Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016).
They begin with the same seed and see the same batches, so that their scores are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.runs.loop import run_steps
from hwnas.runs.progress import Advance
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.size_prior import SizeEffect, doublings
from hwnas.training.train import DivergedError, Training

STAGE = "finalists"


def rung_sizes(finalists: int) -> list[int]:
    """Return how many finalists are trained in each rung: all, half of them, ... down to two."""
    sizes = []
    while finalists > 1:
        sizes.append(finalists)
        finalists = -(-finalists // 2)
    return sizes


@dataclass
class SuccessiveHalving:
    """The training of the finalists; one step is a training step of one of them.

    Attributes:
        space: the search space at the deployed sizes.
        finalists: the architectures, at least one; of equal ones in value, the first goes on.
        training_of: makes the training of an architecture, for all rungs together.
        score_of: scores a trained network, 0 to 1.
        rung_steps: training steps of one finalist in one rung.
        checkpoint_every: steps between checkpoints.
        size_prior: whether the finalists' sizes are taken into account beside their scores.
        step: number of steps done.
        scores: of each finalist by rung.
        effect: what the first rung tells about the effect of size.
    """

    space: SearchSpace
    finalists: Sequence[Architecture]
    training_of: Callable[[Architecture], Training]
    score_of: Callable[[Training], float]
    rung_steps: int
    checkpoint_every: int
    size_prior: bool = True
    step: int = 0
    scores: list[list[float]] = field(init=False)
    effect: SizeEffect = field(default_factory=SizeEffect)

    def __post_init__(self) -> None:
        self.rungs = rung_sizes(len(self.finalists))
        self.steps = sum(self.rungs) * self.rung_steps
        self.scores = [[] for _ in self.finalists]
        self.left = list(range(len(self.finalists)))
        self.trainings: dict[int, Training] = {}
        self.doublings = doublings(self.space, self.finalists)

    def run(self, folder: RunFolder, progress: Advance) -> Architecture:
        """Train to the end, from the newest checkpoint if there is one, and return the best.

        Raises:
            Interrupted: a signal was received; a checkpoint has been written.
        """
        run_steps(
            self,
            folder,
            stage=STAGE,
            steps=self.steps,
            log_every=self.rung_steps,
            checkpoint_every=self.checkpoint_every,
            progress=progress,
            describe=self._describe,
        )
        return self.finalists[self.left[0]]

    @property
    def rung(self) -> int:
        """The rung of the next step."""
        return min(len(self.scores[i]) for i in self.left)

    def advance(self) -> dict[str, Any]:
        """Take a training step of one finalist; score it and halve them where they are due.

        Returns:
            A record for the history: the finalist and, at the end of its rung, its score.
        """
        rung = self.rung
        current = next(i for i in self.left if len(self.scores[i]) == rung)
        work = self._training(current)
        self.step += 1
        record: dict[str, Any] = {"rung": rung, "choices": dict(self.finalists[current].options)}
        try:
            record["loss"] = work.advance()["loss"]
        except DivergedError:
            # The steps that remain are counted, so that the number of steps is known beforehand.
            work.step += 1
            record["loss"] = None
        if work.step == (rung + 1) * self.rung_steps:
            score = 0.0 if record["loss"] is None else self.score_of(work)
            self.scores[current].append(score)
            record["score"] = score
            if self.rung > rung:
                record |= self._halve(rung)
        return record

    def _training(self, finalist: int) -> Training:
        if finalist not in self.trainings:
            self.trainings[finalist] = self.training_of(self.finalists[finalist])
        return self.trainings[finalist]

    def _halve(self, rung: int) -> dict[str, Any]:
        """Keep the better half; returns what the history says of the effect of size."""
        sizes = self.doublings[self.left]
        scores = np.array([self.scores[i][rung] for i in self.left])
        if rung == 0 and self.size_prior:
            self.effect = SizeEffect.learned(sizes, scores)
        values = self.effect.values(sizes, scores)
        order = np.argsort(-values, kind="stable")[: -(-len(self.left) // 2)]
        self.left = [self.left[i] for i in order]
        self.trainings = {i: work for i, work in self.trainings.items() if i in self.left}
        return {"score_per_doubling": self.effect.score_per_doubling, "trust": self.effect.trust}

    def _describe(self, record: dict[str, Any]) -> str:
        text = f"{self.rungs[record['rung']]} finalists"
        best = max((scores[-1] for scores in self.scores if scores), default=None)
        return text if best is None else f"{text}, best {best:.3f}"

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to resume."""
        return {
            "step": self.step,
            "finalists": [self.space.chosen(architecture) for architecture in self.finalists],
            "scores": self.scores,
            "left": self.left,
            "effect": [self.effect.score_per_doubling, self.effect.trust],
            "trainings": {str(i): work.state_dict() for i, work in self.trainings.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned, unless it is one of other finalists."""
        if state["finalists"] != [self.space.chosen(a) for a in self.finalists]:
            return
        self.step = int(state["step"])
        self.scores = [[float(score) for score in scores] for scores in state["scores"]]
        self.left = [int(i) for i in state["left"]]
        self.effect = SizeEffect(*state["effect"])
        for finalist, saved in state["trainings"].items():
            self._training(int(finalist)).load_state_dict(saved)
