"""A run with a limit of time: its settings follow from the time, and it can be resumed."""

from __future__ import annotations

import signal

import pytest
from helpers.runs import settings, table_file

from hwnas.config import load_config
from hwnas.pipeline import stages
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import run
from hwnas.pipeline.time_limit import SEARCH_SHARE, TimeLimit
from hwnas.runs.interruption import Interrupted


def configured(*more: str):
    return load_config(None, settings("nasbench201", "search.steps=400", *more))


def test_measurements_and_the_search_get_shares_of_the_time() -> None:
    config = configured("check.measure_seconds=60", "latency.measure_seconds=6")
    limit = TimeLimit.of(2)
    shorter = limit.applied(config, operators=100)
    assert shorter.search.minutes == pytest.approx(2 * SEARCH_SHARE)
    assert shorter.latency.operator_seconds == pytest.approx(0.12)
    assert shorter.latency.measure_seconds == pytest.approx(4.8)
    assert shorter.check.measure_seconds == pytest.approx(6)
    assert limit.applied(shorter, operators=100) == shorter
    stated = configured("search.minutes=0.1")
    assert limit.applied(stated, operators=100).search.minutes == 0.1


@pytest.mark.slow
def test_a_run_that_has_no_time_ends_with_a_checked_model_and_is_resumed(
    tmp_path, monkeypatch
) -> None:
    config, folder = configured("minutes=0.01", "train.epochs=3"), tmp_path / "run"
    table = table_file("nasbench201", tmp_path)

    def stop(run: Run) -> None:
        monkeypatch.undo()
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(stages, "export", stop)
    with pytest.raises(Interrupted):
        run(config, folder, table=table)
    document = run(config, folder, resume=True)
    assert document["verdict"] in ("pass", "inconclusive")
    kept = load_config(folder / "config.toml")
    assert kept.train.epochs == 1, "an epoch is always trained"
    assert any("the time" in note for note in kept.notes)
    (end,) = [r for r in Run.open(folder).folder.read_history() if r["event"] == "ended"]
    assert end["step"] < 400
    assert "search.minutes" in end["reason"]
    assert run(config, folder, resume=True)["measured"] == document["measured"], "done"


@pytest.mark.slow
def test_epochs_that_fit_are_not_changed(tmp_path) -> None:
    config, folder = configured("minutes=10", "search.steps=12"), tmp_path / "run"
    run(config, folder, table=table_file("nasbench201", tmp_path))
    kept = load_config(folder / "config.toml")
    assert (kept.train.epochs, kept.notes) == (config.train.epochs, config.notes)
