"""The verbs about strategies: `hwnas strategies`, `hwnas bench` and `hwnas tune`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import Json, Set, example, interruptible, print_result

bench_app = typer.Typer(
    rich_markup_mode=None, help="Compare strategies on benchmarks whose accuracies are all known."
)


class NasBenchData(StrEnum):
    """Datasets of NAS-Bench-201 whose accuracies ship with the package."""

    cifar10 = "cifar10"
    cifar100 = "cifar100"


def strategies(as_json: Json = False) -> None:
    """List the search strategies.

    For each one the paper, its settings with their defaults, and what it needs.
    """
    from hwnas.cli.terminal import print_strategies
    from hwnas.reporting.catalogue import read_catalogue

    document = {"strategies": read_catalogue()["strategies"]}
    if as_json:
        print(json.dumps(document))
    else:
        print_strategies(document["strategies"])


@bench_app.command(
    "nasbench201",
    epilog=example(
        "hwnas bench nasbench201 --strategy evolution --dataset cifar100 --evaluations 100"
    ),
)
def nasbench201(
    strategy: Annotated[
        str, typer.Option(metavar="S", help="Search strategy, one of `hwnas strategies`.")
    ],
    dataset: Annotated[NasBenchData, typer.Option(help="Dataset whose accuracies are used.")],
    evaluations: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=15_625, help="Number of cells whose accuracy may be looked up."
        ),
    ] = 100,
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of searches, with seeds from 0 on.")
    ] = 5,
    latency: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Latencies of all cells, columns arch and latency_ms; needs --budget-ms.",
        ),
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            "--budget-ms", metavar="X", help="Latency budget in milliseconds; needs --latency."
        ),
    ] = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Run a strategy on NAS-Bench-201.

    The strategy sees accuracies after 12 epochs; the cell that it chooses is judged by its test
    accuracy after 200 epochs.
    """
    from hwnas.config import read_overrides
    from hwnas.errors import InputError
    from hwnas.runs import progress
    from hwnas.studies.nasbench201 import Benchmark, bench_strategy, read_latencies

    if (latency is None) != (budget_ms is None):
        raise InputError("--latency and --budget-ms need each other", where="--latency")
    if budget_ms is not None and not 0 < budget_ms < float("inf"):
        raise InputError("not a budget", where="--budget-ms", expected="> 0 ms", actual=budget_ms)
    if latency is None or budget_ms is None:
        benchmark = Benchmark(dataset.value)
    else:
        benchmark = Benchmark(dataset.value, read_latencies(latency), budget_ms)
    with progress.shown("bench") as advance:
        document = bench_strategy(
            benchmark,
            strategy,
            evaluations=evaluations,
            seeds=range(seeds),
            settings=read_overrides(settings or []),
            progress=advance,
        )
    text = (
        f"{strategy}, {dataset.value}, {evaluations} evaluations, {seeds} seeds: "
        f"test accuracy {document['mean']:.2f} +- {document['std']:.2f} %"
    )
    regret = sum(record["regret"] for record in document["seeds"]) / seeds
    text += f", {regret:.2f} below the best" + (" within the budget" if latency else "")
    print_result(document, as_json, text)


@bench_app.command(
    "table",
    epilog=example(
        "hwnas bench table scores.csv --space mbconv --strategy evolution --fitness valid "
        "--score test"
    ),
)
def table(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Architectures and their scores: a CSV file with the column arch and columns of "
            "numbers, or NAS-Bench-101's .tfrecord.",
        ),
    ],
    space: Annotated[str, typer.Option(metavar="NAME", help="Search space of the architectures.")],
    strategy: Annotated[
        str, typer.Option(metavar="S", help="Search strategy, one of `hwnas strategies`.")
    ],
    fitness: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column that the strategy sees.")
    ] = "accuracy",
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A column that the choice is judged by, such as another task's; again for each "
            "further one. Default: what the strategy sees.",
        ),
    ] = None,
    minimise: Annotated[
        bool, typer.Option("--minimise", help="Small numbers are good, such as errors.")
    ] = False,
    evaluations: Annotated[
        int, typer.Option(metavar="N", min=1, help="Architectures that may be looked up.")
    ] = 100,
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of searches, with seeds from 0 on.")
    ] = 5,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            "--budget-ms", metavar="X", help="Largest value of the column latency_ms.", min=0
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--space-option", metavar="K=V", help="An option of the space, as TOML."),
    ] = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Run a strategy on a table of architectures and scores.

    The table need not have all architectures of the space: the strategy proposes those that it has.
    """
    from hwnas.config import read_overrides
    from hwnas.runs import progress
    from hwnas.spaces import build_space
    from hwnas.studies.tables import TableBenchmark, bench_table

    built = build_space(space, read_overrides(options or []), "--space-option")
    with progress.shown("bench") as advance:
        benchmark = TableBenchmark.read(
            path,
            built,
            fitness,
            list(dict.fromkeys(score or [fitness])),
            minimise=minimise,
            budget_ms=budget_ms,
            progress=advance,
        )
        document = bench_table(
            benchmark,
            strategy,
            evaluations=evaluations,
            seeds=range(seeds),
            settings=read_overrides(settings or []),
            progress=advance,
        )
    text = (
        f"{strategy}, {path.name}, {document['architectures']:,} architectures, {evaluations} "
        f"evaluations, {seeds} seeds: "
    ) + "; ".join(
        f"{name} {found['mean']:.4g} +- {found['std']:.3g}, best {found['best']:.4g}"
        for name, found in document["scores"].items()
    )
    print_result(document, as_json, text)


def tune(
    strategy: Annotated[
        str, typer.Option(metavar="S", help="Search strategy, one of `hwnas strategies`.")
    ],
    storage: Annotated[
        str,
        typer.Option(
            metavar="FILE|URL",
            help="Journal file or database URL of the Optuna study; continued if it exists.",
        ),
    ],
    dataset: Annotated[
        NasBenchData, typer.Option(help="Dataset whose accuracies are used.")
    ] = NasBenchData.cifar10,
    trials: Annotated[
        int, typer.Option(min=1, help="Finished trials to reach, those of earlier calls included.")
    ] = 50,
    evaluations: Annotated[
        int, typer.Option(metavar="N", min=1, max=15_625, help="Evaluations in each search.")
    ] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Number of searches in each trial.")] = 20,
    as_json: Json = False,
) -> None:
    """Tune a strategy's settings on NAS-Bench-201.

    Several processes may share the storage.
    """
    from hwnas.runs import progress
    from hwnas.studies import tune as tuning
    from hwnas.studies.nasbench201 import Benchmark

    with interruptible(), progress.shown("tune") as advance:
        document = tuning.tune(
            strategy,
            Benchmark(dataset.value),
            storage,
            trials=trials,
            evaluations=evaluations,
            seeds=seeds,
            progress=advance,
        )
    stated = ", ".join(f"{key} = {value}" for key, value in document["settings"].items())
    text = (
        f"{strategy}: {stated}: {document['regret']:.3f} below the best cell, with the defaults "
        f"{document['default_regret']:.3f} ({document['trials']} trials)"
    )
    print_result(document, as_json, text)
