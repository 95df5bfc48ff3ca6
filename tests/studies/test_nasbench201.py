"""The benchmark of strategies against what is known of NAS-Bench-201."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.command_line import refused

from hwnas.data.nasbench201 import load_nasbench201
from hwnas.evaluators.accuracy_table import AccuracyTable
from hwnas.spaces import build_space
from hwnas.strategies import STRATEGIES
from hwnas.studies.nasbench201 import Benchmark, bench_strategy

COUNTED = np.random.default_rng(0).uniform(1, 10, 15_625)


def latency_file(path):
    space = build_space("nasbench201")
    cells = [space.to_genotype(cell) for cell in Benchmark("cifar10").cells]
    lines = [f"{cell},{ms}" for cell, ms in zip(cells, COUNTED, strict=True)]
    path.write_text("arch,latency_ms\n" + "\n".join(lines))
    return str(path)


def bench(*more: str, strategy: str = "evolution", dataset: str = "cifar100") -> list[str]:
    return ["bench", "nasbench201", "--strategy", strategy, "--dataset", dataset, "--json", *more]


def test_one_object_with_a_record_for_each_seed(cli) -> None:
    code, out, err = cli(*bench("--evaluations", "12", "--seeds", "3"))
    assert code == 0, err
    document = json.loads(out)
    assert len(out.splitlines()) == 1
    assert (document["strategy"], document["dataset"]) == ("evolution", "cifar100")
    assert document["evaluations"] == 12
    assert len(document["seeds"]) == 3
    space, table = build_space("nasbench201"), load_nasbench201()
    for record in document["seeds"]:
        cell = space.from_genotype(record["architecture"])
        index = Benchmark("cifar100").index[cell]
        assert record["test_accuracy"] == pytest.approx(table.accuracy["c100_test_200"][index])
        assert record["fitness"] == pytest.approx(table.accuracy["c100_val_12"][index])
        validation = table.accuracy["c100_val_200"][index]
        assert record["validation_accuracy"] == pytest.approx(validation)
        assert record["regret"] == pytest.approx(73.513 - record["test_accuracy"], abs=0.001)
        assert record["evaluations"] == 12
        assert record["latency_ms"] is None
        assert record["violated"] is False
    assert [record["seed"] for record in document["seeds"]] == [0, 1, 2]
    accuracies = [record["test_accuracy"] for record in document["seeds"]]
    assert document["mean"] == pytest.approx(np.mean(accuracies))
    assert document["std"] == pytest.approx(np.std(accuracies))


def test_a_budget_is_never_broken(cli, tmp_path) -> None:
    budget = ["--latency", latency_file(tmp_path / "l.csv"), "--budget-ms", "1.5"]
    code, out, err = cli(*bench(*budget, "--evaluations", "10", "--seeds", "2"))
    assert code == 0, err
    best = load_nasbench201().accuracy["c100_test_200"][COUNTED <= 1.5].max()
    for record in json.loads(out)["seeds"]:
        assert record["latency_ms"] <= 1.5
        assert not record["violated"]
        assert record["regret"] == pytest.approx(best - record["test_accuracy"], abs=1e-4)


def test_bad_input_is_one_line(cli, tmp_path) -> None:
    latency = ["--latency", latency_file(tmp_path / "l.csv")]
    refused(cli(*bench(strategy="evolutoin")), "unknown strategy", "evolution")
    refused(cli(*bench(strategy="darts")), "gradient", "one of random")
    refused(cli(*bench("--set", "populatoin=3")), "unknown key", "population")
    refused(cli(*bench(*latency)), "budget")
    refused(cli(*bench(*latency, "--budget-ms", "inf")), "not a budget")
    refused(cli(*bench("--set", "learning_rate=inf", strategy="reinforce")), "learning_rate")
    refused(cli(*bench(*latency, "--budget-ms", "0.5")), "no architecture keeps", "1.0")
    short = tmp_path / "short.csv"
    lines = (tmp_path / "l.csv").read_text().splitlines()
    short.write_text("\n".join(lines[:100]))
    refused(cli(*bench("--latency", str(short), "--budget-ms", "5")), "15625", "99")


def test_strategies_are_listed_with_paper_and_settings(cli) -> None:
    code, out, _ = cli("strategies", "--json")
    listed = json.loads(out)["strategies"]
    assert code == 0
    assert list(listed) == list(STRATEGIES)
    assert listed["evolution"]["settings"] == {
        "size_prior": True,
        "population": 10,
        "tournament": 3,
        "crossover": 0.0,
    }
    assert "1806.09055" in listed["darts"]["paper"]


def test_a_strategy_sees_only_what_it_evaluates(monkeypatch) -> None:
    """Accuracies of other cells may be anything: the search is the same."""
    benchmark = Benchmark("cifar100")
    asked = []
    plain = AccuracyTable.__call__
    monkeypatch.setattr(
        AccuracyTable, "__call__", lambda self, a: asked.append(a) or plain(self, a)
    )
    first = bench_strategy(benchmark, "evolution", evaluations=20, seeds=[3])
    other = Benchmark("cifar100")
    seen = np.isin(np.arange(len(other.cells)), [benchmark.index[cell] for cell in asked])
    fitness = np.where(seen, benchmark.table.fitness, 0.0)
    other.__dict__["table"] = replace(benchmark.table, fitness=fitness)
    again = bench_strategy(other, "evolution", evaluations=20, seeds=[3])
    assert again["seeds"][0]["architecture"] == first["seeds"][0]["architecture"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy, dataset, published",
    [
        ("evolution", "cifar10", 93.98),
        ("evolution", "cifar100", 72.01),
        ("random", "cifar10", 93.75),
        ("random", "cifar100", 71.22),
    ],
)
def test_accuracies_are_those_of_the_reference(strategy, dataset, published) -> None:
    """100 evaluations, 500 seeds: figures recomputed elsewhere from the same table."""
    settings = {"size_prior": False} if strategy == "evolution" else {}
    found = bench_strategy(
        Benchmark(dataset), strategy, evaluations=100, seeds=range(500), settings=settings
    )
    standard_error = found["std"] / 500**0.5
    assert found["mean"] == pytest.approx(published, abs=0.05 + 2 * standard_error)
