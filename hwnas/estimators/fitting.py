"""A whole run within a limit of time: the settings follow from the time, the data and the machine.

Time decides nothing but settings, before the stage that they belong to begins: how long operators
are measured, and how many epochs are trained, by the speed of a few steps. They are kept in the
run's `config.toml`. If the machine becomes slower meanwhile, training ends early.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
import torch

from hwnas.config import Config
from hwnas.durable import write_atomic
from hwnas.pipeline.check import check
from hwnas.pipeline.configuration import load_config
from hwnas.pipeline.export import export
from hwnas.pipeline.profile import profile, profiled_space
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import search
from hwnas.pipeline.train import train, training_of
from hwnas.runs import progress
from hwnas.runs.checkpoints import load_checkpoint
from hwnas.training.train import STAGE as TRAINING

PROFILE_SHARE, CANDIDATE_SHARE, CHECK_SHARE = 0.1, 0.04, 0.05
"""Shares of the time: to measure all operators, one candidate, and the finished model."""
LEAST_SHARE, MOST_SHARE = 0.1, 0.25
"""Bounds of the share that is kept for export and check."""
PLANNED = 0.8
"""How much of the time for training its epochs are planned to take."""
MOST_STEPS, MOST_EPOCHS = 8000, 300
PACE_STEPS, PACE_S = 20, 1.5
"""Steps by which training is timed, and seconds after which that ends."""


class _OutOfTimeError(Exception):
    """The time for training is over."""


def fit_within(
    folder: Path,
    data: Mapping[str, Any],
    *,
    minutes: float,
    budget_ms: float | None,
    settings: Sequence[str],
    seed: int,
    verbose: bool,
) -> dict[str, Any]:
    """Run all stages in a folder, within about a given time.

    Args:
        folder: the run folder; it may hold the data, and no run.
        data: the table `[data]` of a configuration.
        minutes: the limit.
        budget_ms: latency budget in milliseconds; half-way between the fastest and the slowest
            network if None.
        settings: further settings, as for `load_config`; they are not changed.
        seed: of everything random.
        verbose: show progress on stderr.

    Returns:
        The content of `check.json`.

    Raises:
        HwnasError: see `hwnas.run`.
    """
    started, limit_s = time.monotonic(), 60 * minutes
    end = started + limit_s
    stage = progress.shown if verbose else progress.silent
    config = _configuration(folder, data, budget_ms, seed, limit_s, settings)
    operators = len(profiled_space(config).all_operators())
    seconds = _bounded(PROFILE_SHARE * limit_s / operators, 0.05, 0.5)
    table = folder / "latency_table.json"
    profile(config, table, seconds=seconds, stage=stage)
    profiled = time.monotonic()
    search(config, folder, table=table, show_progress=verbose)
    # Export and check take about as long as exporting and measuring candidates did.
    searched_s = time.monotonic() - profiled
    kept_s = _bounded(searched_s, LEAST_SHARE * limit_s, MOST_SHARE * limit_s)
    run = Run.open(folder, stage=stage)
    with run.folder.locked():
        _train(run, end - kept_s, any(s.startswith("train.epochs") for s in settings))
        export(run)
        return check(run)


def _configuration(
    folder: Path,
    data: Mapping[str, Any],
    budget_ms: float | None,
    seed: int,
    limit_s: float,
    settings: Sequence[str],
) -> Config:
    """What hwnas chooses for the data, with the largest networks that keep the budget.

    They need no search of their own and are hard to beat, so that the time goes into training.
    """
    budget = {"fraction": 0.5} if budget_ms is None else {"ms": float(budget_ms)}
    source = folder / "data.toml"
    write_atomic(source, tomli_w.dumps({"seed": seed, "data": dict(data), "budget": budget}))
    chosen = [
        "search.strategy=largest",
        "search.evaluator=zero-cost",
        "search.zero_cost=parameters",
        "search.steps=1",
        f"latency.measure_seconds={_bounded(CANDIDATE_SHARE * limit_s, 3.0, 6.0)}",
        f"check.measure_seconds={_bounded(CHECK_SHARE * limit_s, 3.0, 60.0)}",
    ]
    config = load_config(source, [*chosen, *settings])
    source.unlink()
    return config


def _bounded(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _train(run: Run, end: float, is_stated: bool) -> None:
    """Train for as many epochs as the time allows, unless their number is stated."""
    if not is_stated:
        left_s = end - time.monotonic()
        epochs = _epochs_within(run, PLANNED * left_s)
        _set_epochs(run, epochs, f"what was left of the time: {left_s:.0f} s")
    shown = run.stage
    run.stage = _ending(shown, end)
    try:
        train(run)
    except _OutOfTimeError:
        # What is trained is the latest checkpoint; training of so few epochs ends at once.
        saved = load_checkpoint(run.folder.checkpoints, TRAINING)
        done = 0 if saved is None else saved[0]
        batches = len(run.problem.dataset.train) // run.config.train.batch_size
        _set_epochs(run, max(1, done // batches), "ended early, because the time was over")
        run.stage = shown
        train(run)
    run.stage = shown


def _epochs_within(run: Run, seconds: float) -> int:
    """How many epochs take so long, by the speed of a few steps."""
    torch.manual_seed(0)
    training = training_of(run, run.problem.space.network(run.architecture()), run.config.train)
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
