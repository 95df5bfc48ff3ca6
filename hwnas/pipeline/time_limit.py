"""A whole run within a limit of time.

Time decides nothing but settings, before the stage that they belong to begins: how long operators
and candidates are measured, and how many epochs are trained, by the speed of a few steps. They are
kept in the run's `config.toml`. If the machine becomes slower meanwhile, the search and the
training end early.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hwnas.config import Config
from hwnas.durable import write_atomic
from hwnas.pipeline.run import Run
from hwnas.pipeline.train import train, training_of
from hwnas.runs import progress
from hwnas.runs.checkpoints import load_checkpoint
from hwnas.training.train import STAGE as TRAINING

PROFILE_SHARE, CANDIDATE_SHARE, CHECK_SHARE = 0.1, 0.04, 0.05
"""Shares of the time: to measure all operators, one candidate, and the finished model."""
SEARCH_SHARE = 0.4
"""Share of the time after which the search ends."""
LEAST_SHARE, MOST_SHARE = 0.1, 0.25
"""Bounds of the share that is kept for export and check."""
PLANNED = 0.8
"""How much of the time for training its epochs are planned to take."""
MOST_STEPS, MOST_EPOCHS = 8000, 300
PACE_STEPS, PACE_S = 20, 1.5
"""Steps by which training is timed, and seconds after which that ends."""


class _OutOfTimeError(Exception):
    """The time for training is over."""


@dataclass(frozen=True)
class TimeLimit:
    """When a run has to be over.

    Attributes:
        seconds: of the whole run.
        end: the same as a time of `time.monotonic`.
    """

    seconds: float
    end: float

    @classmethod
    def of(cls, minutes: float) -> TimeLimit:
        """A limit that begins now."""
        return cls(60 * minutes, time.monotonic() + 60 * minutes)

    def operator_s(self, operators: int) -> float:
        """Seconds for which each operator is measured, on average."""
        return _bounded(PROFILE_SHARE * self.seconds / operators, 0.05, 0.5)

    def candidate_s(self) -> float:
        """Seconds for which a candidate is measured at most."""
        return _bounded(CANDIDATE_SHARE * self.seconds, 3.0, 6.0)

    def check_s(self) -> float:
        """Seconds for which the finished model is measured at most."""
        return _bounded(CHECK_SHARE * self.seconds, 3.0, 60.0)

    def applied(self, config: Config, operators: int) -> Config:
        """A configuration whose measurements and search take no longer than their shares.

        Args:
            config: the configuration.
            operators: how many operators its table has.
        """
        latency, search, check = config.latency, config.search, config.check
        search_min = SEARCH_SHARE * self.seconds / 60
        shorter = {
            "latency": latency.model_copy(
                update={
                    "operator_seconds": min(latency.operator_seconds, self.operator_s(operators)),
                    "measure_seconds": min(latency.measure_seconds, self.candidate_s()),
                }
            ),
            "search": search.model_copy(
                update={"minutes": min(search.minutes or search_min, search_min)}
            ),
            "check": check.model_copy(
                update={"measure_seconds": min(check.measure_seconds, self.check_s())}
            ),
        }
        return config.model_copy(update=shorter)

    def train(
        self, run: Run, *, searched_s: float = 0.0, most_epochs: int | None = None, runs: int = 1
    ) -> None:
        """Train a run's architecture for as many epochs as the time allows.

        A function of the user that trains decides its time itself.

        Args:
            run: a run with an architecture. Its number of epochs is changed, in its folder too.
            searched_s: seconds that the search took. Export and check take about as long as
                exporting and measuring candidates did.
            most_epochs: the largest number of epochs; None if it is only bounded by `MOST_EPOCHS`.
            runs: number of runs that are left to be finished, which share the time.
        """
        if not run.problem.has_data:
            train(run)
            return
        now = time.monotonic()
        kept_s = _bounded(searched_s, LEAST_SHARE * self.seconds, MOST_SHARE * self.seconds)
        left_s = (self.end - now) / runs - kept_s
        epochs = min(_epochs_within(run, PLANNED * left_s), most_epochs or MOST_EPOCHS)
        if epochs != run.config.train.epochs:
            _set_epochs(run, epochs, f"what was left of the time: {left_s:.0f} s")
        train_until(run, now + left_s)


def train_until(run: Run, end: float) -> None:
    """Train for the epochs of the configuration, or fewer if the time is over before.

    Args:
        run: a run with an architecture.
        end: when training has to end, as a time of `time.monotonic`. One epoch is always trained.
    """
    shown = run.stage
    run.stage = _ending(shown, end)
    try:
        train(run)
    except _OutOfTimeError:
        # What is trained is the latest checkpoint; training of so few epochs ends at once.
        saved = load_checkpoint(run.folder.checkpoints, TRAINING)
        done = 0 if saved is None else saved[0]
        batches = len(run.problem.dataset.train) // run.recipe.batch_size
        _set_epochs(run, max(1, done // batches), "ended early, because the time was over")
        run.stage = shown
        train(run)
    run.stage = shown


def _bounded(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _epochs_within(run: Run, seconds: float) -> int:
    """How many epochs take so long, by the speed of a few steps."""
    torch.manual_seed(0)
    training = training_of(run, run.problem.space.network(run.architecture()), run.recipe)
    per_epoch = training.batches.steps_per_epoch
    training.advance()  # the first step allocates memory
    started, steps = time.monotonic(), 0
    while steps < PACE_STEPS and time.monotonic() - started < PACE_S:
        training.advance()
        steps += 1
    step_s = (time.monotonic() - started) / steps
    affordable = int(seconds / step_s) // per_epoch
    return max(1, min(affordable, MOST_STEPS // per_epoch, MOST_EPOCHS))


def _set_epochs(run: Run, epochs: int, reason: str) -> None:
    """Change the number of epochs in the run and in its folder."""
    note = f"train.epochs = {epochs}: {reason}"
    config = run.config
    run.config = config.model_copy(
        update={
            "train": config.train.model_copy(update={"epochs": epochs}),
            "notes": [*config.notes, note],
        }
    )
    write_atomic(run.folder.config, run.config.to_toml())


def _ending(shown: progress.Stage, end: float) -> progress.Stage:
    """The stage, ended by `_OutOfTimeError` when the time is over."""

    @contextmanager
    def stage(title: str) -> Iterator[progress.Advance]:
        with shown(title) as advance:

            def limited(done: int, total: int, text: str) -> None:
                advance(done, total, text)
                if time.monotonic() > end and done < total:
                    raise _OutOfTimeError

            yield limited

    return stage
