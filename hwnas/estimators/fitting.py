"""A whole run within a limit of time, whose settings follow from the time and the data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from hwnas.config import Config
from hwnas.durable import write_atomic
from hwnas.pipeline.check import check
from hwnas.pipeline.configuration import load_config
from hwnas.pipeline.export import export
from hwnas.pipeline.profile import profile, profiled_space
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import search
from hwnas.pipeline.time_limit import TimeLimit
from hwnas.runs import progress


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
    limit = TimeLimit.of(minutes)
    stage = progress.shown if verbose else progress.silent
    config = _configuration(folder, data, budget_ms, seed, limit, settings)
    operators = len(profiled_space(config).all_operators())
    table = folder / "latency_table.json"
    profile(config, table, seconds=limit.operator_s(operators), stage=stage)
    profiled = time.monotonic()
    search(config, folder, table=table, show_progress=verbose)
    searched_s = time.monotonic() - profiled
    run = Run.open(folder, stage=stage)
    stated = any(setting.startswith("train.epochs") for setting in settings)
    with run.folder.locked():
        limit.train(
            run, searched_s=searched_s, most_epochs=run.config.train.epochs if stated else None
        )
        export(run)
        return check(run)


def _configuration(
    folder: Path,
    data: Mapping[str, Any],
    budget_ms: float | None,
    seed: int,
    limit: TimeLimit,
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
        f"latency.measure_seconds={limit.candidate_s()}",
        f"check.measure_seconds={limit.check_s()}",
    ]
    config = load_config(source, [*chosen, *settings])
    source.unlink()
    return config
