"""Strategies on tables of one's own: generated ones whose best architecture is known."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from helpers.command_line import refused
from helpers.graph_records import unique_graphs, worth, write_records
from helpers.tiny import tiny_space

from hwnas.calibration.networks import write_networks
from hwnas.spaces import build_space
from hwnas.studies.nasbench201 import Benchmark
from hwnas.studies.tables import TableBenchmark, bench_table

SPACE = tiny_space("mbconv")
RNG = np.random.default_rng(0)
ARCHITECTURES = list(dict.fromkeys(SPACE.sample(RNG) for _ in range(300)))
WORTH = RNG.normal(size=SPACE.mask.shape)
TOTALS = np.array([WORTH[range(len(WORTH)), SPACE.chosen(a)].sum() for a in ARCHITECTURES])
OPTIONS = [
    *("--space-option", "layout='small'", "--space-option", "width_multiplier=0.25"),
    *("--space-option", "stage_layers=1", "--space-option", "head_channels=8"),
    *("--space-option", "input_channels=1", "--space-option", "classes=3"),
]


@pytest.fixture
def path(tmp_path):
    """A table of two tasks, of which one is the opposite of the other, and latencies."""
    columns = {"segmentation": TOTALS, "loss": 5 - TOTALS, "latency_ms": 10 + TOTALS}
    write_networks(tmp_path / "scores.csv", SPACE, ARCHITECTURES, columns)
    return tmp_path / "scores.csv"


def bench(path, *more: str) -> list[str]:
    return ["bench", "table", str(path), "--space", "mbconv", *OPTIONS, "--json", *more]


def test_a_strategy_with_enough_evaluations_finds_the_best(cli, path) -> None:
    common = ["--strategy", "random", "--evaluations", "2000", "--seeds", "1"]
    code, out, err = cli(*bench(path, *common, "--fitness", "segmentation"))
    assert code == 0, err
    document = json.loads(out)
    assert document["architectures"] == len(ARCHITECTURES)
    (record,) = document["seeds"]
    found = document["scores"]["segmentation"]
    assert found == {"best": pytest.approx(TOTALS.max(), rel=1e-5), "mean": found["best"], "std": 0}
    assert record["scores"]["segmentation"] == found["best"]
    assert record["regrets"]["segmentation"] == 0
    best = ARCHITECTURES[int(TOTALS.argmax())]
    assert record["architecture"] == SPACE.to_genotype(best)


def test_small_numbers_are_good_where_that_is_said(path) -> None:
    benchmark = TableBenchmark.read(path, SPACE, "loss", ["segmentation"], minimise=True)
    assert min(benchmark.percent.values()) >= 0
    found = bench_table(benchmark, "evolution", evaluations=100, seeds=[0, 1])
    for record in found["seeds"]:
        assert record["fitness"] < np.median(5 - TOTALS)
    assert benchmark.best["segmentation"] == pytest.approx(TOTALS.min(), rel=1e-5)


def test_a_budget_is_kept(path) -> None:
    budget_ms = float(np.quantile(10 + TOTALS, 0.4))
    benchmark = TableBenchmark.read(
        path, SPACE, "segmentation", ["segmentation"], budget_ms=budget_ms
    )
    found = bench_table(benchmark, "evolution", evaluations=60, seeds=range(3))
    kept = TOTALS[budget_ms >= 10 + TOTALS]
    assert found["scores"]["segmentation"]["best"] == pytest.approx(kept.max(), rel=1e-5)
    assert all(record["latency_ms"] <= budget_ms for record in found["seeds"])


def test_several_tasks_are_reported_side_by_side(cli, path) -> None:
    """What is best for one task is worst for the other here."""
    common = ["--strategy", "random", "--evaluations", "2000", "--seeds", "2"]
    tasks = ["--fitness", "segmentation", "--score", "loss", "--score", "segmentation"]
    code, out, err = cli(*bench(path, *common, *tasks))
    assert code == 0, err
    scores = json.loads(out)["scores"]
    assert list(scores) == ["loss", "segmentation"]
    assert scores["segmentation"]["mean"] == scores["segmentation"]["best"]
    assert scores["loss"]["mean"] == pytest.approx(5 - TOTALS.max(), rel=1e-5)
    assert scores["loss"]["best"] == pytest.approx(5 - TOTALS.min(), rel=1e-5)
    code, out, _ = cli(*[word for word in bench(path, *common, *tasks) if word != "--json"])
    assert code == 0
    assert "; segmentation" in out


GRAPHS = unique_graphs(4)
RECORDS = ["--space", "nasbench101", "--space-option", "vertices=4", "--json"]
COLUMNS = ["--fitness", "validation_accuracy_108_1", "--score", "test_accuracy_108"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records") / "r.tfrecord", GRAPHS)


@pytest.mark.parametrize("strategy", ["random", "evolution", "tpe"])
def test_records_are_looked_up_in_any_order_of_the_vertices(cli, records, strategy) -> None:
    line = ["bench", "table", str(records), *RECORDS, *COLUMNS, "--strategy", strategy]
    code, out, err = cli(*line, "--evaluations", "120", "--seeds", "1")
    assert code == 0, err
    document = json.loads(out)
    assert document["architectures"] == len(GRAPHS) == 91
    best = max(GRAPHS, key=worth)
    assert document["scores"]["test_accuracy_108"]["best"] == pytest.approx(100 * worth(best))
    (record,) = document["seeds"]
    space = build_space("nasbench101", {"vertices": 4})
    found = space.graph(space.from_genotype(record["architecture"]))
    assert record["scores"]["test_accuracy_108"] == pytest.approx(100 * worth(found))
    # The first training is a point below the mean, and validation five points above.
    assert record["fitness"] == pytest.approx(100 * worth(found) + 4)
    assert record["regrets"]["test_accuracy_108"] <= 5


def test_graphs_that_are_not_in_the_records_are_not_proposed(tmp_path) -> None:
    few = [graph for graph in GRAPHS if "maxpool3x3" not in graph.operators]
    path = write_records(tmp_path / "few.tfrecord", few)
    space = build_space("nasbench101", {"vertices": 4})
    benchmark = TableBenchmark.read(path, space, "test_accuracy_108", ["test_accuracy_108"])
    found = bench_table(benchmark, "evolution", evaluations=40, seeds=[0])
    assert found["architectures"] == len(few)
    assert "maxpool3x3" not in found["seeds"][0]["architecture"]["ops"]
    (largest,) = benchmark.decoder.best(np.ones(space.mask.shape))
    assert largest in benchmark.places


def test_records_that_do_not_fit_are_one_line(cli, records) -> None:
    line = ["bench", "table", str(records), "--strategy", "random"]
    refused(cli(*line, "--space", "mbconv", *COLUMNS), "nasbench101", "mbconv")
    refused(cli(*line, *RECORDS, "--fitness", "test_acuracy_108"), "test_accuracy_108", "mean")
    refused(cli(*line, *RECORDS, *COLUMNS, "--budget-ms", "1"), "missing column latency_ms")


def test_bad_tables_are_one_line(cli, path, tmp_path) -> None:
    refused(cli(*bench(path, "--strategy", "random")), "accuracy")
    refused(cli(*bench(path, "--strategy", "darts", "--fitness", "loss")), "gradient")
    refused(cli(*bench(tmp_path / "no.csv", "--strategy", "random")), "no.csv")
    lines = path.read_text().splitlines()
    for changed, words in (
        ([*lines, lines[1]], ("two lines",)),
        ([lines[0], lines[1].rsplit(",", 3)[0] + ",nan,1,1"], ("not a number", "nan")),
    ):
        broken = tmp_path / "broken.csv"
        broken.write_text("\n".join(changed))
        arguments = bench(broken, "--strategy", "random", "--fitness", "segmentation")
        refused(cli(*arguments), *words)


def test_cells_are_read_as_naslib_numbers_them() -> None:
    space = build_space("nasbench201", {})
    # NASLib's example: edges (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4).
    cell = space.from_genotype([0, 1, 2, 3, 4, 2])
    assert space.to_genotype(cell) == (
        "|skip_connect~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|nor_conv_3x3~2|"
    )
    numbers = itertools.product(range(5), repeat=6)
    cells = {space.from_genotype(list(one)) for one in numbers}
    assert cells == set(Benchmark("cifar10").cells)


def test_compact_cells_of_darts_are_read() -> None:
    space = build_space("darts", {})
    compact = [[[0, 3], [1, 3], [0, 2], [2, 6], [0, 0], [1, 1], [3, 4], [4, 5]]] * 2
    found = space.to_genotype(space.from_genotype(json.loads(json.dumps(compact))))
    assert found["normal"] == found["reduce"] == [
        ["sep_conv_3x3", 0], ["sep_conv_3x3", 1], ["skip_connect", 0], ["dil_conv_5x5", 2],
        ["max_pool_3x3", 0], ["avg_pool_3x3", 1], ["sep_conv_5x5", 3], ["dil_conv_3x3", 4],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, genotype",
    [
        ("nasbench201", [0, 1, 2, 3, 4]),
        ("nasbench201", [0, 1, 2, 3, 4, 5]),
        ("nasbench201", [0, 1, 2, 3, 4, True]),
        ("darts", [[[0, 3]] * 8]),
        ("darts", [[[0, 7]] * 8] * 2),
        ("darts", [[[0, -1]] * 8] * 2),
        ("darts", [3, 4]),
    ],
)
def test_malformed_numbers_are_refused(name, genotype) -> None:
    from hwnas.errors import InputError

    with pytest.raises(InputError, match="genotype"):
        build_space(name, {}).from_genotype(genotype)
