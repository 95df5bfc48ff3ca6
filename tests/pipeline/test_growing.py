"""Runs whose network grows while it is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs import settings, table_file
from safetensors.torch import load_file

import hwnas
from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.pipeline.run import Run
from hwnas.pipeline.train import train
from hwnas.runs import interruption
from hwnas.runs.interruption import Interrupted
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.layers import SKIP

GROWING = ["train.grow=true", "train.epochs=2"]


def test_only_spaces_whose_networks_can_grow_are_accepted(tmp_path) -> None:
    config = load_config(None, settings("nasbench201", *GROWING))
    table = table_file("nasbench201", tmp_path)
    with pytest.raises(InputError, match=r"train\.grow.*mbconv"):
        hwnas.search(config, tmp_path / "run", table=table, show_progress=False)
    assert not (tmp_path / "run").exists()


def run_in(folder: Path, *more: str) -> Run:
    """A run whose architecture is decided: the largest one."""
    small = ["data.train_limit=64", "data.test_limit=20", "train.batch_size=8", *more]
    files = RunFolder(folder)
    files.create()
    run = Run(load_config(None, settings("mbconv", *GROWING, *small)), files)
    options = [max(c.options, key=lambda o: (o != SKIP, o)) for c in run.problem.space.choices]
    chosen = dict(zip((c.name for c in run.problem.space.choices), options, strict=True))
    files.write_json(files.architecture, run.problem.space.architecture(chosen).to_json())
    return run


def test_a_training_that_grows_is_resumed_in_all_stages(tmp_path, monkeypatch) -> None:
    train(run_in(tmp_path / "whole"))
    for stop_after in (1, 3, 4):  # of 16 steps, with growths after the fourth and the eighth
        calls = iter(range(1000))
        monkeypatch.setattr(
            interruption, "requested", lambda calls=calls, n=stop_after: next(calls) >= n
        )
        with pytest.raises(Interrupted):
            train(run_in(tmp_path / "stopped"))
    monkeypatch.undo()
    train(run_in(tmp_path / "stopped"))
    whole, stopped = (RunFolder(tmp_path / name) for name in ("whole", "stopped"))
    weights = load_file(whole.weights), load_file(stopped.weights)
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    records = stopped.read_history()
    steps = [(one["event"], one["step"]) for one in records if one["event"] != "train"]
    assert ("grow2", 8) in steps
    first, second = [one for one in records if one["event"] == "growth"]
    assert (first["step"], second["step"]) == (4, 8)
    assert set(second["grown"]) == set(second["gains"]) < set(first["gains"])
    assert not list(stopped.checkpoints.glob("grow*"))
    assert stopped.read_json(stopped.metrics)["epochs"] == 2


def test_a_network_that_grows_once_grows_everywhere(tmp_path) -> None:
    run = run_in(tmp_path / "run", "train.growths=1", "train.epochs=1")
    train(run)
    (growth,) = [one for one in run.folder.read_history() if one["event"] == "growth"]
    end = dict(run.architecture())
    assert set(growth["grown"]) == set(growth["gains"])
    assert all(end[name] == after for name, (_, after) in growth["grown"].items())
