"""The verb `suggest`: data, a device and a budget in, architectures out, without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.knowledge import Base
from hwnas.cli.options import (
    ConfigArgument,
    Json,
    Set,
    SpaceName,
    interruptible,
    overrides_for_space,
)


def suggest(
    knowledge: Base,
    table: Annotated[
        str,
        typer.Option(
            "--table",
            metavar="TABLE",
            help="Latency table of the device: a file, or a name of `hwnas table list`.",
        ),
    ],
    budget_ms: Annotated[
        float, typer.Option("--budget-ms", metavar="X", help="Latency budget in milliseconds.")
    ],
    config: ConfigArgument = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="The data: a dataset or format, as in cifar10 or folder. Default: the "
            "configuration's.",
        ),
    ] = None,
    data_path: Annotated[
        Path | None,
        typer.Option("--data-path", metavar="PATH", help="The file or folder of the data."),
    ] = None,
    space: SpaceName = None,
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many architectures.")] = 10,
    confidence: Annotated[
        float,
        typer.Option(
            "--budget-confidence",
            metavar="P",
            min=0.5,
            max=0.999,
            help="Probability with which the predicted latency has to keep the budget.",
        ),
    ] = 0.9,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Propose architectures from earlier searches of similar data, without a search.

    Each comes with its predicted score and latency, and with the deviations of both.
    """
    from hwnas.config import config_name
    from hwnas.knowledge.base import KnowledgeBase
    from hwnas.latency_tables.shipped import load_table
    from hwnas.pipeline.configuration import load_config
    from hwnas.pipeline.suggest import suggest as suggest_architectures

    named = {"data.name": data, "data.path": None if data_path is None else str(data_path)}
    given = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    with interruptible():
        document = suggest_architectures(
            load_config(config, [*given, *overrides_for_space(config, space, settings)]),
            config_name(config),
            base=KnowledgeBase.existing(knowledge),
            table=load_table(table),
            budget_ms=budget_ms,
            count=count,
            confidence=confidence,
        )
    print(json.dumps(document)) if as_json else _print(document)


def _print(document: dict[str, Any]) -> None:
    """Print the suggestions as a table."""
    from rich.console import Console
    from rich.table import Table

    from hwnas.errors import printable

    console = Console(highlight=False, markup=False)
    table = Table("score", "ms", "in budget", "parameters", "architecture", box=None)
    for one in document["suggestions"]:
        table.add_row(
            f"{one['score']:.4g} \u00b1 {one['score_deviation']:.1g}",
            f"{one['latency_ms']:.4g} \u00b1 {one['latency_deviation_ms']:.1g}",
            f"{one['probability']:.0%}",
            f"{one['params']:,}",
            printable(str(one["genotype"])),
        )
    console.print(table)
    console.print(
        f"scores are predicted for the data of {document['searches']} earlier searches; how far "
        f"they can be trusted here: {document['trust']:.2f} of 1",
        soft_wrap=True,
    )
