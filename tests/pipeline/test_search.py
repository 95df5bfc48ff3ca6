"""The search stage with evaluators of single architectures: a user's table, a warm start, a storage
that two processes share."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from helpers.runs import settings, table_file
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hwnas.budget.selection import BudgetError
from hwnas.calibration.networks import read_accuracies, write_networks
from hwnas.config import load_config
from hwnas.data import split_train
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.pipeline import compatibility
from hwnas.pipeline.profile import profiled_space
from hwnas.pipeline.run import Run
from hwnas.pipeline.search import finished_search, search_supernet
from hwnas.pipeline.stages import search
from hwnas.pipeline.table import prepare_table

SPACE = profiled_space(load_config(None, settings("nasbench201")))


def configured(*more: str, steps: int):
    return load_config(None, settings("nasbench201", *more, f"search.steps={steps}"))


def history(folder: Path, event: str) -> list[dict]:
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def test_a_table_of_accuracies_is_searched_and_nothing_else(tmp_path, rng) -> None:
    drawn = list({SPACE.sample(rng) for _ in range(30)})
    accuracy = np.linspace(40, 90, len(drawn))
    path = tmp_path / "accuracy.csv"
    write_networks(path, SPACE, drawn, {"accuracy": accuracy.tolist()})
    more = ["search.evaluator='table'", f"search.accuracy_table='{path}'"]
    config = configured(*more, "search.strategy='evolution'", steps=60)
    found = search(config, tmp_path / "run", table=table_file("nasbench201", tmp_path))
    seen = [record["architecture"] for record in history(tmp_path / "run", "search")]
    known = {SPACE.to_genotype(a): value for a, value in zip(drawn, accuracy, strict=True)}
    assert len(seen) == 60
    assert set(seen) <= set(known)
    best = max(known[genotype] for genotype in seen)
    assert known[SPACE.to_genotype(found)] == best > 80


@pytest.mark.parametrize(
    "text,message",
    [
        ("arch,accuracy\n{0},101\n", "percent 0 to 100"),
        ("arch,accuracy\n{0},high\n", "percent 0 to 100"),
        ("arch,top1\n{0},90\n", "missing column"),
        ("arch,accuracy\n|no_op~0|,90\n", "line 2"),
    ],
)
def test_a_malformed_table_is_refused(text: str, message: str, tmp_path, rng) -> None:
    path = tmp_path / "accuracy.csv"
    path.write_text(text.format(SPACE.to_genotype(SPACE.sample(rng))))
    with pytest.raises(InputError, match=message):
        read_accuracies(path, SPACE)


@pytest.mark.slow
def test_a_warm_start_begins_with_the_best_by_a_proxy(tmp_path) -> None:
    more = ["search.evaluator='zero-cost'", "search.zero_cost='parameters'"]
    warm = ["search.warm_start=30", "search.warm_start_kept=4"]
    table = table_file("nasbench201", tmp_path)
    losses = {}
    for name, start in {"cold": [], "warm": warm}.items():
        config = configured(*more, *start, "search.strategy='random'", steps=12)
        search(config, tmp_path / name, table=table)
        losses[name] = [record["loss"] for record in history(tmp_path / name, "search")]
    assert losses["warm"][:4] == sorted(losses["warm"][:4])
    # The fourth best of 30 against the median of a dozen.
    assert losses["warm"][3] < np.median(losses["cold"])
    with pytest.raises(InputError, match="proposes single architectures"):
        search(configured("search.warm_start=5", steps=1), tmp_path / "darts", table=table)


def test_the_largest_network_is_found_without_any_evaluation(tmp_path) -> None:
    table = table_file("nasbench201", tmp_path)
    config = configured("search.strategy='largest'", "budget.fraction=0.99", steps=5)
    assert config.search.evaluator == "size"
    found = search(config, tmp_path / "run", table=table)
    assert not history(tmp_path / "run", "search")
    params, macs = SPACE.params_and_macs(found)
    every = [SPACE.params_and_macs(SPACE.sample(np.random.default_rng(i))) for i in range(300)]
    measured = history(tmp_path / "run", "measurement")
    kept = [one for one in measured if one["choices"] == dict(found.options)]
    assert 0 < kept[0]["supernet_accuracy"] <= 1
    assert sum(p > params and m > macs for p, m in every) <= 3
    left = finished_search(Run.open(tmp_path / "run"))
    assert left.strategy.name == "largest"
    assert left.rank([found]) == pytest.approx([kept[0]["supernet_accuracy"]])


def test_activations_are_stored_as_configured(tmp_path) -> None:
    losses = {}
    for storage in ("exact", "bfloat16"):
        config = configured(f"search.activation_storage='{storage}'", steps=2)
        run = Run.start(config, tmp_path / storage, resume=False)
        run.begin()
        prepare_table(run, table_file("nasbench201", tmp_path))
        search_supernet(run, *split_train(run.problem.dataset.train, 0.5, 0))
        losses[storage] = [record["loss"] for record in history(tmp_path / storage, "search")]
    assert losses["bfloat16"] != losses["exact"]
    assert losses["bfloat16"] == pytest.approx(losses["exact"], rel=0.02)


def test_another_strategy_or_evaluator_evaluates(tmp_path) -> None:
    assert configured("search.strategy='random'", steps=1).search.evaluator == "supernet"
    more = ["search.strategy='largest'", "search.evaluator='zero-cost'"]
    assert configured(*more, steps=1).search.evaluator == "zero-cost"
    with pytest.raises(InputError, match="evaluator = size is for strategy = largest"):
        configured("search.strategy='random'", "search.evaluator='size'", steps=1)


@pytest.mark.parametrize("memory_mb", [0.001, 1e4])
def test_candidates_are_held_to_a_budget_of_memory(memory_mb: float, tmp_path) -> None:
    more = ["search.evaluator='zero-cost'", "search.strategy='random'", "budget.ms=1e6"]
    config = configured(*more, f"budget.memory_mb={memory_mb}", "search.max_measured=1", steps=3)
    table = table_file("nasbench201", tmp_path)
    if memory_mb < 1:
        with pytest.raises(BudgetError, match=r"keeps the others, expected at most 0.001 MB"):
            search(config, tmp_path / "run", table=table)
    else:
        search(config, tmp_path / "run", table=table)
    (record,) = history(tmp_path / "run", "measurement")
    assert 0.1 < record["memory_mb"] < 1000
    assert record["energy_mj"] is None


@pytest.mark.parametrize(
    "settings_more, error, words",
    [
        (["budget.memory_mb=10", "latency.runtime='torch-cpu'"], InputError, "budget.memory_mb"),
        (["budget.energy_mj=10"], RuntimeMissingError, "budget.energy_mj"),
        (["check.compare=['torch-cpu']"], InputError, "check.compare"),
        (["check.compare=['tensorrt-cuda']"], RuntimeMissingError, "tensorrt-cuda"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_the_start(
    settings_more, error, words, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(compatibility, "energy_counter", lambda runtime: None)
    with pytest.raises(error, match=words):
        search(configured(*settings_more, steps=1), tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.slow
def test_two_processes_search_as_one_and_one_may_die(tmp_path) -> None:
    table = table_file("nasbench201", tmp_path)
    storage = tmp_path / "shared.log"
    more = ["search.evaluator='zero-cost'", f"search.storage='{storage}'", "search.steps=40"]
    line = [sys.executable, "-m", "hwnas", "search", "default", "--table", str(table), "--json"]
    for setting in settings("nasbench201", *more, "search.strategy='evolution'"):
        line += ["--set", setting]
    workers = [
        subprocess.Popen(
            [*line, "--out", str(tmp_path / f"run{i}")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _evaluated(tmp_path / "run0"):
        time.sleep(0.05)
    workers[0].send_signal(signal.SIGKILL)
    out, err = workers[1].communicate(timeout=200)
    workers[0].communicate()
    assert workers[1].returncode == 0, err
    assert json.loads(out)["space"] == "nasbench201"
    assert history(tmp_path / "run1", "search")[-1]["step"] >= 40
    study = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(storage)))
    )
    judged = [
        (tuple(trial.user_attrs["options"]), trial.user_attrs["fidelity"])
        for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    ]
    assert len(judged) == len(set(judged))
    own = len(history(tmp_path / "run0", "search"))
    assert 0 < own < len(judged), "both have judged some"


def _evaluated(folder: Path) -> bool:
    return (folder / "history.jsonl").exists() and bool(history(folder, "search"))


@pytest.mark.slow
def test_finalists_are_measured_trained_and_the_winner_is_chosen(tmp_path) -> None:
    more = ["search.finalists=3", "search.max_measured=4", "search.candidates=3"]
    table, folder = table_file("nasbench201", tmp_path), tmp_path / "run"
    config = configured(*more, "search.evaluator='zero-cost'", "search.strategy='random'", steps=3)
    chosen = search(config, folder, table=table)
    measured = [record["choices"] for record in history(folder, "measurement")]
    first, last = (
        [r for r in history(folder, "finalists") if r["rung"] == rung] for rung in (0, 1)
    )
    assert [r["choices"] for r in first] == measured[:3]
    best = sorted(first, key=lambda r: -r["score"])[:2]
    assert len(last) == 2
    assert {str(r["choices"]) for r in last} == {str(r["choices"]) for r in best}
    assert dict(chosen.options) == max(last, key=lambda r: r["score"])["choices"]
    assert not list((folder / "checkpoints").glob("finalists*"))
    (folder / "architecture.json").unlink()
    assert search(config, folder, table=table, resume=True) == chosen
    assert [r["choices"] for r in history(folder, "measurement")] == measured
    assert [r for r in history(folder, "finalists") if r["rung"] == 0] == first


def test_finalists_of_a_run_that_deploys_inherited_weights_are_refused(tmp_path) -> None:
    more = ["search.finalists=2", "search.max_measured=2", "train.epochs=0", "train.inherit=true"]
    config = load_config(None, settings("elastic", *more))
    with pytest.raises(InputError, match=r"search.finalists.* expected train.epochs above 0"):
        search(config, tmp_path / "run", table=table_file("elastic", tmp_path))


def test_more_finalists_than_measurements_are_refused() -> None:
    with pytest.raises(InputError, match="finalists"):
        configured("search.finalists=9", "search.max_measured=8", steps=1)


def test_finalists_are_refused_where_scores_are_given(tmp_path) -> None:
    table = ["search.evaluator='table'", "search.accuracy_table='scores.csv'"]
    with pytest.raises(InputError, match="finalists are trained"):
        configured(*table, "search.finalists=2", "search.max_measured=2", steps=1)
