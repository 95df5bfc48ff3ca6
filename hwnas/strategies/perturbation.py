"""DARTS with perturbation-based selection (DARTS-PT).

Wang et al., "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021 (arXiv
2108.04392). Options are selected by how much the loss of the trained supernet grows when they are
removed, not by their weights.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome
from hwnas.strategies.differentiable import DartsSettings, DartsStrategy

NONE = "none"


class Trial(NamedTuple):
    """One step of the selection.

    Attributes:
        row: of the choice from which something is removed; -1 to remove nothing.
        option: the option that is removed; -1 for the whole edge.
        tunes: whether the step trains the weights instead; its loss is ignored.
    """

    row: int
    option: int
    tunes: bool = False


class PerturbationSettings(DartsSettings):
    """Settings of DARTS and of the selection.

    The paper evaluates each removal on all validation images and tunes for 5 epochs.
    """

    beta_decay: float = Field(
        0.0,
        ge=0,
        description="weight of beta-decay at the end of the search; grows linearly from 0",
    )
    judged_on: int = Field(
        4,
        ge=1,
        description="number of validation batches, always the same, on which a removal is judged",
    )
    tune: int = Field(2, ge=0, description="steps that train the weights after each decision")


class PerturbationStrategy(DartsStrategy):
    """DARTS, whose last steps decide the choices one after the other, in random order.

    Each option of a choice is removed once, and the option whose removal gives the largest loss is
    selected. Then each edge that may take `none` is removed once. Unlike in the paper, edges are
    removed one at a time from the complete cell. The selection takes one step for each option, the
    tuning steps after each choice, and one step for each edge, but at most half of the search;
    choices that are not reached are decided by their weights.

    Attributes:
        trials: all steps of the selection, in order.
        losses: the loss of each step that is done.
        selects: whether the selection has begun.
        current: the step that belongs to the last mixture from `ask`; None before the selection.
    """

    name = "darts-pt"
    paper = (
        "Wang et al., Rethinking Architecture Selection in Differentiable NAS, ICLR 2021, "
        "arXiv 2108.04392"
    )
    settings_model = PerturbationSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: PerturbationSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.settings = settings
        self.trials = self._plan(np.random.default_rng(seed))
        self.losses: list[float] = []
        self.step_size = 0.0
        self.selects = False
        self.current: Trial | None = None

    def _plan(self, rng: np.random.Generator) -> list[Trial]:
        """All steps in order: the options of each choice, the complete cell, and the edges."""
        trials: list[Trial] = []
        edges: list[Trial] = []
        for row in rng.permutation(len(self.space.choices)).tolist():
            trials += [Trial(row, option) for option in self._operators(row)]
            trials += [Trial(row, -1, tunes=True)] * self.settings.tune
            edges += [Trial(row, -1)] if NONE in self.space.choices[row].options else []
        return [*trials, Trial(-1, -1), *edges]

    def _operators(self, row: int) -> list[int]:
        """The options of a choice without `none`."""
        return [i for i, o in enumerate(self.space.choices[row].options) if o != NONE]

    @property
    def judged_on(self) -> int:
        if self.current is None:
            return 0
        return 1 if self.current.tunes else self.settings.judged_on

    def _trial(self) -> Trial | None:
        """The next step; None before the selection and after it."""
        if not self.selects or len(self.losses) == len(self.trials):
            return None
        return self.trials[len(self.losses)]

    def _losses_without(self) -> Tensor:
        """The loss without each option, (choices, max_options); nan where it is not known yet."""
        losses = torch.full(self.mask.shape, math.nan)
        for trial, loss in zip(self.trials, self.losses, strict=False):
            if trial.option >= 0:
                losses[trial.row, trial.option] = loss
        return losses

    def _decided(self) -> dict[int, int]:
        """The selected option of each choice of which every option was removed once."""
        decided = {}
        for row, losses in enumerate(self._losses_without()):
            present = self._operators(row)
            if not losses[present].isnan().any():
                decided[row] = present[int(losses[present].argmax())]
        return decided

    def log_probabilities(self) -> Tensor:
        decided = self._decided()
        rows = list(super().log_probabilities())
        for row, option in decided.items():
            chosen = torch.full_like(rows[row], -math.inf)
            chosen[option] = 0.0
            rows[row] = chosen
        return torch.stack(rows)

    def ask(self) -> Mixture:
        self.current = trial = self._trial()
        if trial is None:
            return super().ask()
        weights = self.mixing_weights().detach()
        if trial.option >= 0:
            weights[trial.row, trial.option] = 0.0
        elif trial.row >= 0 and not trial.tunes:
            weights[trial.row] = 0.0
        return Mixture(weights)

    def ask_training(self) -> Mixture | None:
        judges = self.current is not None and not self.current.tunes
        return None if judges else Mixture(self.mixing_weights())

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        if self.current is not None:
            self.losses.append(outcome.loss)
            return
        if self.selects:
            return
        self.step_size = progress - self.progress if self.progress else 0.0
        super().tell(mixture, outcome, progress)
        if self.step_size:
            steps_left = round((1 - progress) / self.step_size) - 1
            self.selects = progress >= 0.5 and steps_left <= len(self.trials)

    def scores(self) -> Tensor:
        """Scores by the losses of the removals, or by the weights where these are not known.

        An option's score is its loss relative to that of the selected option of its choice. Once
        all edges were removed, an edge's scores are shifted so that the largest is the increase of
        the loss without the edge, and `none` scores 0.
        """
        scores = super().log_probabilities()
        without = self._losses_without()
        for row, option in self._decided().items():
            relative = without[row] - without[row, option]
            strongest = scores[row][~relative.isnan()].max()
            scores[row] = torch.where(relative.isnan(), scores[row], strongest + relative)
        if len(self.losses) == len(self.trials):
            complete = self.losses[self.trials.index(Trial(-1, -1))]
            for trial, loss in zip(self.trials, self.losses, strict=True):
                if trial.row >= 0 and trial.option < 0 and not trial.tunes:
                    none = self.space.choices[trial.row].options.index(NONE)
                    scores[trial.row, none] = -math.inf
                    scores[trial.row] += loss - complete - scores[trial.row].max()
                    scores[trial.row, none] = 0.0
        return scores

    def state_dict(self) -> dict[str, Any]:
        selection = [self.step_size, float(self.selects)]
        return super().state_dict() | {"losses": self.losses, "selection": selection}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.losses = [float(loss) for loss in state["losses"]]
        self.step_size, selects = state["selection"]
        self.selects = bool(selects)
