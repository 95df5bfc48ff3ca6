"""Runs whose network grows while it is trained."""

from __future__ import annotations

import shutil

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

GROWING = ["train.grow=true", "train.epochs=2"]


def test_only_spaces_whose_networks_can_grow_are_accepted(tmp_path) -> None:
    config = load_config(None, settings("nasbench201", *GROWING))
    table = table_file("nasbench201", tmp_path)
    with pytest.raises(InputError, match=r"train\.grow.*mbconv"):
        hwnas.search(config, tmp_path / "run", table=table, show_progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_that_grows_is_resumed_in_both_stages(tmp_path, monkeypatch) -> None:
    config = load_config(None, settings("mbconv", *GROWING))
    table = table_file("mbconv", tmp_path)
    hwnas.search(config, tmp_path / "whole", table=table, show_progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    train(Run.open(tmp_path / "whole"))
    for stop_after in (7, 20):
        calls = iter(range(1000))
        monkeypatch.setattr(
            interruption, "requested", lambda calls=calls, n=stop_after: next(calls) >= n
        )
        with pytest.raises(Interrupted):
            train(Run.open(tmp_path / "stopped"))
    monkeypatch.undo()
    train(Run.open(tmp_path / "stopped"))
    whole, stopped = (RunFolder(tmp_path / name) for name in ("whole", "stopped"))
    weights = load_file(whole.weights), load_file(stopped.weights)
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    events = {record["event"] for record in stopped.read_history()}
    assert {"grow", "train"} <= events
    assert not list(stopped.checkpoints.glob("grow*"))
    assert stopped.read_json(stopped.metrics)["epochs"] == 2
