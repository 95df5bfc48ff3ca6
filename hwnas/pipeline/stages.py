"""A run: all stages in a row, each from files to files in the run folder. Start reading here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from hwnas.architecture import Architecture
from hwnas.config import Config, config_name
from hwnas.deploy.export import read_metadata
from hwnas.errors import HwnasError
from hwnas.inspection.process import sha256_of
from hwnas.pipeline.check import check
from hwnas.pipeline.configuration import load_config
from hwnas.pipeline.controls import compare_with_controls, has_compared
from hwnas.pipeline.export import export
from hwnas.pipeline.knowledge import draw_on_knowledge, remember
from hwnas.pipeline.microcontroller import export_microcontroller
from hwnas.pipeline.problem import Problem
from hwnas.pipeline.profile import profiled_space
from hwnas.pipeline.report import report
from hwnas.pipeline.run import Run
from hwnas.pipeline.search import assist_search, search_architecture
from hwnas.pipeline.shrink_family import shrink_family
from hwnas.pipeline.shrink_rounds import shrink_architecture
from hwnas.pipeline.table import prepare_table
from hwnas.pipeline.time_limit import TimeLimit
from hwnas.pipeline.train import train
from hwnas.pipeline.transfer import check_transfer
from hwnas.runs import interruption, progress
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.runs.run_folder import next_run_folder

logger = logging.getLogger("hwnas")
STAGES = ("profile", "search", "measure", "finalists", "train", "check", "controls")
"""The stages that show progress; a run with a given table leaves out the first.

Runs without finalists or controls have none of their stages.
"""


def run(
    config: Config | str | Path,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
    ranks: Ranks = ALONE,
    source: str = "",
    problem: Problem | None = None,
) -> dict[str, Any]:
    """All stages in a row: profile, search, train, export, check, compare with controls, report.

    A run that is finished is left as it is.

    Args:
        config: the settings from `load_config`, or what it reads: a TOML file or a shipped name.
        out: the run folder; the next free `runs/run-001` ... if None.
        table: a latency table of this device; measured now if None.
        resume: continue in a folder that holds an unfinished run.
        show_progress: show bars or lines about the stages on stderr.
        ranks: the processes that search together; the others call `assist`.
        source: how errors name the configuration.
        problem: what was given in Python in place of what the configuration names.

    Returns:
        The content of `check.json`; its verdict is `pass` when the model keeps the budget and
        every other gate. With several budgets, `family` has a summary of the others' checks, and
        with controls `controls` the content of `controls.json`.

    Raises:
        HwnasError: with the exit code that the command line gives.
    """
    config, source = _loaded(config, source)
    limit = None if config.minutes is None else TimeLimit.of(config.minutes)
    if limit is not None:
        space = profiled_space(config) if problem is None else problem.space
        config = limit.applied(config, len(space.all_operators()))
    current = _prepared(config, out, resume, show_progress, ranks, source, problem)
    with current.folder.locked():
        members = [current, *current.family]
        if all(is_finished(member) for member in members):
            logger.info("%s is already finished, nothing to do", current.folder.path)
            ranks.any(False)
            document, *others = [m.folder.read_json(m.folder.check) for m in members]
        else:
            with _begun(current, table):
                started = time.monotonic()
                if ranks.any(not _is_searched(current)):
                    _search(current)
                searched_s = time.monotonic() - started
                left = range(len(members), 0, -1)
                document, *others = [
                    _finish(member, limit, searched_s, runs)
                    for member, runs in zip(members, left, strict=True)
                ]
                if others:
                    # The report of the first was written before the others were checked.
                    report(current.folder.path)
    if others:
        document["family"] = [front_point(other) for other in others]
    if current.config.controls:
        document["controls"] = current.folder.read_json(current.folder.controls_document)
    return document


def _loaded(config: Config | str | Path, source: str) -> tuple[Config, str]:
    """The settings, and how errors name the configuration."""
    if isinstance(config, Config):
        return config, source
    return load_config(config), config_name(config)


def _prepared(
    config: Config,
    out: str | Path | None,
    resume: bool,
    show_progress: bool,
    ranks: Ranks,
    source: str,
    problem: Problem | None = None,
) -> Run:
    """The run in its folder, before anything is written."""
    path = Path(out or next_run_folder())
    absent = {
        "search": config.search.evaluator == "size",
        "finalists": not config.search.finalists,
        "controls": not config.controls,
    }
    stages = [stage for stage in STAGES if not absent.get(stage)]
    stage = progress.numbered(progress.shown if show_progress else progress.silent, stages)
    return Run.start(
        config, path, resume=resume, stage=stage, ranks=ranks, source=source, given=problem
    )


@contextmanager
def _begun(run: Run, table: str | Path | None) -> Iterator[None]:
    """Begin a run and give it its latency table.

    What is refused before anything was measured leaves no new folder behind; what is interrupted
    does, with the measurements so far.
    """
    folder = run.folder
    try:
        run.begin()
        check_transfer(run)
        prepare_table(run, table)
        draw_on_knowledge(run)
        for member in (run, *run.family):
            if (note := member.target.loose_budget()) is not None:
                logger.warning(note)
        yield
    except interruption.Interrupted:
        raise
    except HwnasError:
        has_measured = folder.latency_table.exists() and table is None
        if folder.is_new and not folder.history.exists() and not has_measured:
            folder.remove()
        raise


def _is_searched(run: Run) -> bool:
    """Whether the run and the members of its family have their architectures."""
    return all(member.folder.architecture.exists() for member in (run, *run.family))


def _search(run: Run) -> Architecture:
    """Search, and record in the history how long that took, also if it was interrupted."""
    started = time.monotonic()
    try:
        if run.config.shrink is not None:
            elastic = run.config.shrink.elastic
            return shrink_family(run) if elastic else shrink_architecture(run)
        return search_architecture(run)
    finally:
        seconds = time.monotonic() - started
        run.folder.append_history({"event": "time", "stage": "search", "seconds": seconds})


def is_finished(run: Run) -> bool:
    """Whether a run's model is exported from its weights, checked, compared and reported."""
    folder = run.folder
    if not all(path.exists() for path in (folder.report, folder.model, folder.weights)):
        return False
    if not folder.check.exists():
        return False
    checked = folder.read_json(folder.check).get("model", {}).get("sha256")
    exported = read_metadata(onnx.load(folder.model)).get("weights_sha256")
    is_own = checked == sha256_of(folder.model) and exported == sha256_of(folder.weights)
    return is_own and has_compared(run)


def _finish(run: Run, limit: TimeLimit | None, searched_s: float, runs: int) -> dict[str, Any]:
    """Train, export and check one architecture, compare it with its controls, and report.

    Args:
        run: a run with an architecture.
        limit: when it has to be over, if ever.
        searched_s: seconds that its search took.
        runs: number of runs that are left to be finished, with this one.
    """
    if not run.folder.metrics.exists():
        most = run.config.train.epochs
        if limit is None or most == 0:
            train(run)
        else:
            limit.train(run, searched_s=searched_s, most_epochs=most, runs=runs)
    interruption.stop_if_requested()
    export(run)
    if run.config.budget.has_sizes:
        export_microcontroller(run)
    interruption.stop_if_requested()
    document = check(run)
    if not has_compared(run):
        interruption.stop_if_requested()
        compare_with_controls(run)
    report(run.folder.path)
    if run.config.knowledge is not None:
        remember(run, run.config.knowledge)
    return document


def front_point(document: dict[str, Any]) -> dict[str, Any]:
    """What the family's summary says of one member's check."""
    return {
        "budget_ms": document["budget_ms"],
        "latency_ms": document["measured"]["value_ms"],
        "metric": document["metric"],
        document["metric"]: document[document["metric"]],
        "verdict": document["verdict"],
    }


def search(
    config: Config | str | Path,
    out: str | Path | None = None,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
    ranks: Ranks = ALONE,
    source: str = "",
) -> Architecture:
    """Profile (unless a table is given) and search; arguments and errors as for `run`."""
    config, source = _loaded(config, source)
    current = _prepared(config, out, resume, show_progress, ranks, source)
    with current.folder.locked():
        if _is_searched(current):
            logger.info("%s has an architecture already, nothing to do", current.folder.path)
            ranks.any(False)
            return current.architecture()
        with _begun(current, table):
            ranks.any(True)
            return _search(current)


def assist(path: Path, ranks: Ranks) -> None:
    """Take part in the supernet search of a `run` or `search` that the first process leads.

    Args:
        path: the run folder, on a disk that all processes share.
        ranks: the processes.

    Raises:
        HwnasError: when the processes' weights part.
        Interrupted: after a signal to any of them.
    """
    if ranks.any(False):
        assist_search(Run.open(path, ranks=ranks))
