"""Tuning a strategy: resumable, shared between processes, within the settings' bounds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from helpers.command_line import refused

from hwnas.strategies import STRATEGIES, strategy_settings
from hwnas.studies.tune import suggest

QUICK = ["--evaluations", "15", "--seeds", "2", "--json"]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_suggestion_is_valid(name: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        strategy_settings(name, suggest(study.ask(), name))


def test_a_study_goes_on_where_it_stopped(cli, tmp_path) -> None:
    line = ["tune", "--strategy", "evolution", "--storage", str(tmp_path / "s.log"), *QUICK]
    code, out, err = cli(*line, "--trials", "2")
    assert code == 0, err
    assert json.loads(out)["trials"] == 2
    code, out, _ = cli(*line, "--trials", "4")
    found = json.loads(out)
    assert code == 0
    assert found["trials"] == 4
    assert set(found["settings"]) == {"size_prior", "population", "tournament", "crossover"}
    assert found["regret"] >= 0
    assert found["default_regret"] >= 0


def test_what_cannot_be_tuned_is_refused(cli, tmp_path) -> None:
    storage = ["--storage", str(tmp_path / "s.log")]
    refused(cli("tune", "--strategy", "random", *storage), "no settings")
    refused(cli("tune", "--strategy", "darts", *storage), "gradient")
    refused(cli("tune", "--strategy", "evolution", "--storage", "no/such/s.log"), "no such folder")
    refused(cli("tune", "--strategy", "evolution", "--storage", "nosql://x"), "cannot be opened")
    (tmp_path / "other.json").write_text('{"no": "journal"}')
    other = str(tmp_path / "other.json")
    refused(cli("tune", "--strategy", "evolution", "--storage", other), "cannot be opened")
    assert (tmp_path / "other.json").read_text() == '{"no": "journal"}', "it is not overwritten"


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_may_die(tmp_path) -> None:
    storage = str(tmp_path / "shared.log")
    line = [sys.executable, "-m", "hwnas", "tune", "--strategy", "evolution", "--storage", storage]
    line += [*QUICK, "--trials", "12"]
    workers = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "evolution" not in _text(storage):
        time.sleep(0.05)
    workers[0].send_signal(signal.SIGKILL)
    out, err = workers[1].communicate(timeout=120)
    workers[0].communicate()
    assert workers[1].returncode == 0, err
    assert json.loads(out)["trials"] >= 12


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except FileNotFoundError:
        return ""
