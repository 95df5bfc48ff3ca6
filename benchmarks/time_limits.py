"""Claim: a run and a search end within a tenth of the time that they are given, on a busy machine.

Each row is a run or a search with a limit of time, beside whatever else the machine does; `load` is
the mean number of processes that were ready in the last minute of it, on `cpus` processors.

    python benchmarks/time_limits.py FOLDER [NAME] [--minutes 3] [--set KEY=VALUE]

The searches train each architecture, which are the longest steps that a search has. Their time is
that of the search alone; a run's begins with the command and ends with its verdict.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from processes import run_hwnas
from results import append_row

from hwnas.config import load_config
from hwnas.runs.checkpoints import load_checkpoint
from hwnas.runs.loop import ENDED
from hwnas.runs.run_folder import RunFolder

EVALUATIONS = ("search.evaluator=training", "search.steps=100000", "search.evaluation_epochs=2")


def main() -> None:
    """Append a row for a run, and one for a search with the run's table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="?", default="sequence_ratings")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--set", action="append", default=[], help="a setting, KEY=VALUE")
    arguments = parser.parse_args()
    name, minutes = arguments.name, arguments.minutes
    whole, search = (RunFolder(arguments.folder / kind) for kind in ("run", "search"))
    for folder in (whole, search):
        shutil.rmtree(folder.path, ignore_errors=True)
    given = [text for setting in arguments.set for text in ("--set", setting)]
    limited = [name, "--out", str(whole.path), "--minutes", str(minutes), *given]
    wall_s = run_hwnas("run", *limited).wall_s
    append_row("time_limits", row(whole, "run", minutes, wall_s))

    settings = [*arguments.set, *EVALUATIONS, f"search.minutes={minutes}"]
    given = [text for setting in settings for text in ("--set", setting)]
    table = ["--table", str(whole.latency_table), "--strategy", "evolution"]
    run_hwnas("search", name, "--out", str(search.path), *table, *given)
    checkpoint = load_checkpoint(search.checkpoints, "search")
    assert checkpoint is not None
    append_row("time_limits", row(search, "search", minutes, checkpoint[1]["spent_s"]))


def row(folder: RunFolder, what: str, minutes: float, taken_s: float) -> dict[str, Any]:
    """A row about what has ended."""
    ends = [record["reason"] for record in folder.read_history() if record["event"] == ENDED]
    config = load_config(folder.config)
    return {
        "what": what,
        "data": config.data.name,
        "minutes": minutes,
        "taken_s": taken_s,
        "over": taken_s / (60 * minutes) - 1,
        "epochs": config.train.epochs,
        "reason": "; ".join(ends),
        "load": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
