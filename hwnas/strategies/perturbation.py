"""Choosing by what is missed (Wang et al., "Rethinking Architecture Selection in Differentiable
NAS", ICLR 2021, arXiv 2108.04392): an option's strength is how much the trained supernet loses
without it, and not its weight.
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
        row: the choice that it is about; -1 for none, all options stay.
        option: what is taken away; -1 for the whole edge.
        tunes: whether the weights are trained in this step; nothing is learned from its loss.
    """

    row: int
    option: int
    tunes: bool = False


class PerturbationSettings(DartsSettings):
    """With the selection's; the paper judges on all validation images and tunes for 5 epochs."""

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
    """DARTS; the last steps decide the choices, one after the other in random order.

    Each option is taken away once, and the one that is missed most is chosen; then each edge that
    may be left out is. Unlike in the paper edges are taken away one at a time from the whole. As
    many steps are used as are needed, half of the search at most: for each choice one an option and
    those that tune, and one for each edge. Choices for which they were too few go by their weights.

    Attributes:
        trials: all of them, in their order.
        losses: what the first of these found.
        selects: whether the selection has begun.
        current: what the mixture that was asked for tries.
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
        """All trials in their order: choices with their options, the whole, the edges."""
        trials: list[Trial] = []
        edges: list[Trial] = []
        for row in rng.permutation(len(self.space.choices)).tolist():
            trials += [Trial(row, option) for option in self._operators(row)]
            trials += [Trial(row, -1, tunes=True)] * self.settings.tune
            edges += [Trial(row, -1)] if NONE in self.space.choices[row].options else []
        return [*trials, Trial(-1, -1), *edges]

    def _operators(self, row: int) -> list[int]:
        """The options of a choice but `none`."""
        return [i for i, o in enumerate(self.space.choices[row].options) if o != NONE]

    @property
    def judged_on(self) -> int:
        if self.current is None:
            return 0
        return 1 if self.current.tunes else self.settings.judged_on

    def _trial(self) -> Trial | None:
        """What is tried next; None before the selection and after it."""
        if not self.selects or len(self.losses) == len(self.trials):
            return None
        return self.trials[len(self.losses)]

    def _missed(self) -> Tensor:
        """(choices, max_options), the loss without each option; nan where it is not known."""
        losses = torch.full(self.mask.shape, math.nan)
        for trial, loss in zip(self.trials, self.losses, strict=False):
            if trial.option >= 0:
                losses[trial.row, trial.option] = loss
        return losses

    def _decided(self) -> dict[int, int]:
        """The option of each choice all of whose options were tried."""
        decided = {}
        for row, losses in enumerate(self._missed()):
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
        """How much more is lost without an option than without the row's most important one, and
        how much without its edge; `none` loses nothing. By weights where it is not known.
        """
        scores = super().log_probabilities()
        missed = self._missed()
        for row, option in self._decided().items():
            relative = missed[row] - missed[row, option]
            strongest = scores[row][~relative.isnan()].max()
            scores[row] = torch.where(relative.isnan(), scores[row], strongest + relative)
        if len(self.losses) == len(self.trials):
            whole = self.losses[self.trials.index(Trial(-1, -1))]
            for trial, loss in zip(self.trials, self.losses, strict=True):
                if trial.row >= 0 and trial.option < 0 and not trial.tunes:
                    none = self.space.choices[trial.row].options.index(NONE)
                    scores[trial.row, none] = -math.inf
                    scores[trial.row] += loss - whole - scores[trial.row].max()
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
