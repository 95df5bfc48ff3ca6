"""Snapshots of runs at every stage of their life."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.run_folders import WrittenRun, written_run

from hwnas.errors import InputError
from hwnas.reporting.run_files import Series
from hwnas.reporting.watching import blocks, snapshot
from hwnas.runs.heartbeat import Heartbeat
from hwnas.runs.run_folder import RunFolder


def beat(pid: int) -> Heartbeat:
    return Heartbeat(pid, "search (2 of 5)", 300, 600, "loss 0.9", 1000.0, 0, 1300.0, 812.4)


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_running_search_shows_where_it_is(tmp_path: Path) -> None:
    run = written_run(tmp_path / "run", stages=("history",))
    beat(os.getpid()).write(run.folder.heartbeat)
    seen = snapshot(run.folder, now=1301.0)
    facts = dict(seen.facts)
    assert facts["state"] == seen.state == "running"
    assert facts["stage"] == "search (2 of 5)"
    assert facts["step"] == "300 of 600"
    assert facts["time left in the stage"] == "5 min 0 s"
    assert facts["memory at most"] == "812 MB"
    assert facts["expected latency"].replace("\u00a0", " ").startswith("0.507")
    assert "budget 0.5 ms" in facts["expected latency"].replace("\u00a0", " ")
    assert facts["best candidate"].startswith("69")  # the other one is over the budget
    assert "silent for" not in facts
    assert dict(snapshot(run.folder, now=1500.0).facts)["silent for"] == "3 min 20 s"
    names = [name for name, *_ in seen.courses]
    assert {"search loss", "entropy", "expected latency (ms)", "training loss"} <= set(names)


def test_the_history_of_a_crashed_run_is_shown(tmp_path: Path) -> None:
    run = written_run(tmp_path / "run", stages=("history",))
    beat(ended_process()).write(run.folder.heartbeat)
    with run.folder.history.open("a") as file:
        file.write('{"event": "search", "st')
    seen = snapshot(run.folder)
    facts = dict(seen.facts)
    assert seen.state == "stopped"
    assert "`hwnas run --resume` continues" in facts["last seen"]
    assert facts["search"] == "step 600"
    assert seen.courses


def test_finished_and_empty_runs(tmp_path: Path, run: WrittenRun) -> None:
    run.folder.report.write_text("")
    assert dict(snapshot(run.folder).facts)["verdict"] == "pass"
    assert snapshot(run.folder).state == "finished"
    empty = RunFolder(tmp_path / "empty")
    empty.create()
    with pytest.raises(InputError, match="no such file"):
        snapshot(empty)
    empty.config.write_text("seed = 1")
    assert snapshot(empty).facts == [("state", "not started")]


def test_curves_are_rows_of_blocks() -> None:
    assert blocks(Series("rising", list(range(8)), list(range(8)))) == "▁▂▃▄▅▆▇█"
    assert blocks(Series("flat", [1.0, 2.0], [3.0, 3.0])) == "▁▁"
    assert len(blocks(Series("long", list(range(999)), list(range(999))))) <= 40


def test_the_command_looks_once_without_a_terminal(cli, tmp_path: Path) -> None:
    run = written_run(tmp_path / "run", stages=("history",))
    code, out, _ = cli("watch", str(run.folder.path))
    assert code == 0
    assert "stopped" in out and "▁" in out
    code, out, _ = cli("watch", str(run.folder.path), "--json")
    assert json.loads(out)["state"] == "stopped"
