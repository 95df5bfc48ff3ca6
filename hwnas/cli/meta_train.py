"""The verb `meta-train`: a start for the supernets of later searches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import Json, Set, interruptible, print_result


def meta_train(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG...",
            help="A configuration for each task: a TOML file, or the name of one that ships.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the start.")],
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds, in each of which one task is trained.")
    ] = 300,
    inner_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of the task in a round.")
    ] = 5,
    rate: Annotated[
        float,
        typer.Option(
            min=1e-6,
            max=1,
            help="Share of the way to the task's weights that the start moves in the first round; "
            "it falls to 0.",
        ),
    ] = 1.0,
    settings: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue where a meta-training stopped.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a supernet over several tasks, as a start for searches of new ones (Reptile).

    Writes DIR/start.safetensors, which a search takes with search.from. All configurations have
    the same search space; --set changes a setting in each of them.
    """
    from hwnas.config import config_name
    from hwnas.pipeline.configuration import load_config
    from hwnas.pipeline.meta_train import MetaSettings
    from hwnas.pipeline.meta_train import meta_train as train_start
    from hwnas.runs import progress

    loaded = [(config_name(one), load_config(one, settings or [])) for one in configs]
    with interruptible():
        document = train_start(
            loaded,
            out,
            MetaSettings(rounds, inner_steps, rate),
            resume=resume,
            stage=progress.shown,
        )
    start = out / "start.safetensors"
    text = f"{start}: {document['shared']} tensors from {len(configs)} tasks"
    print_result({"start": str(start), **document}, as_json, text)
