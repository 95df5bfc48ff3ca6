"""Claim: whatever kills a run, it can be resumed, and ends as it would have ended.

For each configuration a run is finished without a fault. Then runs are killed by SIGKILL after a
random part of half that time, resumed, and killed again, until the number of kills is reached; a
run that ends is compared and the next one begins. After each kill, every document in the folder has
to be whole. With `--cuts`, one run is traced instead, and resumed from what a power cut may leave
of it at random moments (`power_cuts.py`; needs strace).

A run ends as the first one if its architecture and its trained weights are the same, byte by byte.
Searches that share a storage depend on who is faster; of them, no architecture may have been judged
twice, and as many as were asked for.

Runs are forked from this process, which has imported all libraries, so that most kills hit work and
not imports.

    python benchmarks/crashes.py [--kills 40] [--cuts 0] [--only NAME] [--save]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import optuna
import torch
from power_cuts import Disk, trace
from processes import run_hwnas
from results import append_row

import hwnas.cli.app
import hwnas.pipeline.stages
from hwnas.evaluators.storage import open_study
from hwnas.runs.run_folder import RunFolder

SETTINGS = (
    "space={name='nasbench201', cells=1, channels=4}",
    "data.train_limit=400",
    "data.test_limit=100",
    "budget.ms=1e6",
    "latency.measure_seconds=5",
    "search.strategy='darts'",
    "search.proxy={}",
    "search.steps=24",
    "search.batch_size=8",
    "search.candidates=2",
    "search.max_measured=1",
    "search.ranking_images=50",
    "search.recalibration_batches=2",
    "search.checkpoint_every=5",
    "train.epochs=2",
    "train.batch_size=16",
    "train.checkpoint_every=5",
    "check.measure_seconds=20",
    "check.min_accuracy=0.001",
)
ALONE = ("search.evaluator='zero-cost'", "search.strategy='evolution'")
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "supernet": (),
    "storage": (*ALONE, "search.storage='STORAGE'"),
    "two processes": (*ALONE, "search.storage='STORAGE'"),
    "several budgets": ("budget.family_ms=[2e6]",),
    "finalists": (*ALONE, "search.finalists=2", "search.max_measured=2", "search.candidates=2"),
}
STAGES = ("start", "search and measurement", "training", "export, check, report")
ENDED = (0, 1, 3)
"""Exit codes of runs that reached their end, whatever the verdict."""


@dataclass
class Work:
    """A run, or the searches that share a storage, in a folder of their own.

    Attributes:
        root: has everything of the run.
        name: the configuration.
        table: latency table.
    """

    root: Path
    name: str
    table: Path

    @property
    def folders(self) -> list[RunFolder]:
        """The folders of the processes."""
        processes = 2 if self.name == "two processes" else 1
        return [RunFolder(self.root / f"run{number}") for number in range(processes)]

    @property
    def storage(self) -> Path:
        """The journal that processes share."""
        return self.root / "shared.log"

    def arguments(self, folder: RunFolder) -> list[str]:
        """The command line of a process, which resumes what is there."""
        verb = "search" if self.name == "two processes" else "run"
        line = [verb, "default", "--table", str(self.table), "--out", str(folder.path), "--json"]
        for setting in (*SETTINGS, *CONFIGURATIONS[self.name]):
            line += ["--set", setting.replace("STORAGE", str(self.storage))]
        return [*line, *(["--resume"] if folder.config.exists() else [])]

    def members(self) -> list[RunFolder]:
        """All run folders, those of a family's further budgets too."""
        further = self.root.glob("run*/family/*")
        return [*self.folders, *(RunFolder(path) for path in sorted(further))]

    def result(self) -> object:
        """What has to be the same in every run."""
        if self.name == "two processes":
            return self._judged()
        return [
            (json.loads(m.architecture.read_text())["choices"], m.weights.read_bytes())
            for m in self.members()
        ]

    def _judged(self) -> str:
        """Whether the shared searches have judged as many as asked for, and none twice."""
        journal = self.storage.read_text().splitlines()
        names = {r["study_name"] for r in map(json.loads, journal) if "study_name" in r}
        study = open_study(str(self.storage), names.pop(), "maximize", "storage")
        done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        keys = [(tuple(t.user_attrs["options"]), t.user_attrs["fidelity"]) for t in done]
        return f"twice {len(keys) - len(set(keys))}, enough {len(keys) >= 24}"

    def stage(self) -> str:
        """What the run was doing."""
        folder = self.folders[-1]
        done = (folder.config, folder.architecture, folder.metrics)
        return STAGES[sum(path.exists() for path in done)]

    def require_whole(self) -> None:
        """Fail for a document of the run that cannot be read."""
        for file in self.root.rglob("[!.]*.json"):
            if not any(part.startswith(".") for part in file.relative_to(self.root).parts):
                json.loads(file.read_text())
        for file in self.root.rglob("[!.]*.onnx"):
            onnx.load(file)


@dataclass
class Outcome:
    """What was counted."""

    faults: int = 0
    ended: int = 0
    equal: int = 0
    wrong: list[str] = field(default_factory=list)
    stages: Counter[str] = field(default_factory=Counter)

    def compare(self, work: Work, expected: object, code: int) -> None:
        """Count a run that ended."""
        self.ended += 1
        try:
            is_equal = code in ENDED and work.result() == expected
        except OSError:
            is_equal = False
        self.equal += is_equal
        if not is_equal:
            self.wrong.append(f"exit code {code}: {last_line(work)}")


def last_line(work: Work) -> str:
    """The end of what the processes said."""
    logs = [path.read_text().splitlines() for path in sorted(work.root.glob("*.err"))]
    return " | ".join(lines[-1] for lines in logs if lines)


def start(work: Work, folder: RunFolder) -> int:
    """Fork a process that runs the command line; its process number."""
    work.root.mkdir(exist_ok=True)
    arguments = work.arguments(folder)
    child = os.fork()
    if child:
        return child
    log = os.open(work.root / f"{folder.path.name}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 70
    try:
        hwnas.cli.app.main(arguments)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(process: int, seconds: float = 600) -> int | None:
    """The exit code of a process, None if it works for longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def finish(work: Work) -> int:
    """Run all processes to their end; the first bad exit code, or 0."""
    codes = [wait(process) for process in [start(work, folder) for folder in work.folders]]
    return next((code for code in codes if code), 0) if None not in codes else 124


def kill_runs(fresh: Callable[[], Work], usual_s: float, kills: int, rng: np.random.Generator,
              expected: object) -> Outcome:  # fmt: skip
    """Kill and resume runs until the number of kills is reached, then let the last one end."""
    outcome, work = Outcome(), fresh()
    while outcome.faults < kills:
        processes = [start(work, folder) for folder in work.folders]
        chosen = rng.integers(len(processes))
        code = wait(processes[chosen], rng.uniform(0, usual_s / 2))
        if code is None:
            outcome.stages[work.stage()] += 1
            os.kill(processes[chosen], signal.SIGKILL)
            wait(processes[chosen])
            outcome.faults += 1
            print(f"{work.name}: kill {outcome.faults} of {kills}", file=sys.stderr, flush=True)
            work.require_whole()
        others = [wait(process) for process in processes if process != processes[chosen]]
        if code is not None:
            outcome.compare(work, expected, next((c for c in [code, *others] if c), 0))
            shutil.rmtree(work.root)
            work = fresh()
    outcome.compare(work, expected, finish(work))
    return outcome


def cut_power(work: Work, cuts: int, rng: np.random.Generator, expected: object) -> Outcome:
    """Resume a traced run from what power cuts may leave of it."""
    outcome = Outcome()
    work.root.mkdir()
    line = [sys.executable, "-m", "hwnas", *work.arguments(work.folders[0])]
    calls = trace(line, ENDED)
    disk = Disk(work.root)
    moments = [index for index, call in enumerate(calls) if disk.do(call)]
    chosen = sorted(rng.choice(moments, min(cuts, len(moments)), replace=False).tolist())
    disk, done = Disk(work.root), 0
    for moment in chosen:
        for call in calls[done : moment + 1]:
            disk.do(call)
        done = moment + 1
        shutil.rmtree(work.root)
        disk.write_remains(work.root, rng)
        outcome.stages[work.stage()] += 1
        outcome.faults += 1
        print(f"{work.name}: cut {outcome.faults} of {cuts}", file=sys.stderr, flush=True)
        work.require_whole()
        outcome.compare(work, expected, finish(work))
    return outcome


def main() -> None:
    """Run the configurations and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="for each configuration")
    parser.add_argument("--cuts", type=int, default=0, help="power cuts in place of kills")
    parser.add_argument("--only", choices=CONFIGURATIONS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    for name in options.only or CONFIGURATIONS:
        if options.cuts and name == "two processes":
            continue
        with tempfile.TemporaryDirectory() as place:
            run_configuration(name, Path(place), options, rng)


def run_configuration(
    name: str, place: Path, options: argparse.Namespace, rng: np.random.Generator
) -> None:
    """Find what a configuration ends with, then let it meet faults."""
    table = make_table(place)
    number = iter(range(10**6))

    def fresh() -> Work:
        return Work(place / f"work{next(number)}", name, table)

    first, began = fresh(), time.monotonic()
    if finish(first) not in ENDED:
        sys.exit(f"{name} does not end: {last_line(first)}")
    usual_s, expected = time.monotonic() - began, first.result()
    began = time.monotonic()
    if options.cuts:
        outcome = cut_power(fresh(), options.cuts, rng, expected)
    else:
        outcome = kill_runs(fresh, usual_s, options.kills, rng, expected)
    figures = {
        "configuration": name,
        "fault": "power cut" if options.cuts else "kill",
        "faults": outcome.faults,
        "runs": outcome.ended,
        "equal": outcome.equal,
        "wrong": "; ".join(outcome.wrong),
        **{f"in {stage}": outcome.stages[stage] for stage in STAGES},
        "usual_s": usual_s,
        "seconds": time.monotonic() - began,
    }
    if options.save:
        append_row("crashes", figures)
    else:
        print(figures)


def make_table(place: Path) -> Path:
    """Measure the latency table that all runs are given."""
    table = place / "table.json"
    space = [part for setting in SETTINGS[:3] for part in ("--set", setting)]
    run_hwnas("profile", "default", "--seconds", "0.05", "--out", str(table), *space)
    return table


if __name__ == "__main__":
    main()
