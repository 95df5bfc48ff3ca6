"""The verb `shrink`: a trained PyTorch model in, a faster and checked one out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.check import finish_check
from hwnas.cli.options import Json, OnDevice, Set, interruptible
from hwnas.cli.run import Device, Out, RuntimeName, Seed

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FUNCTION",
        help="A function without arguments that returns the model, as in nets:resnet or "
        "nets.py:resnet.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE.safetensors",
        help="Trained weights of the model. Default: those that the function returns it with.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME",
        help="The data: a dataset or format, as in cifar10 or folder, or a TOML file with a table "
        "[data].",
    ),
]
DataPath = Annotated[
    Path | None,
    typer.Option("--data-path", metavar="PATH", help="The file or folder of the data."),
]
Budgets = Annotated[
    list[float],
    typer.Option(
        "--budget-ms",
        metavar="X",
        help="Latency budget in milliseconds. Given several times, one training makes a network "
        "for each.",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", min=0, help="Epochs of the last training. Default: by the data."),
]
Table = Annotated[
    Path | None,
    typer.Option("--table", metavar="TABLE.json", help="Latency table. Default: measure one."),
]


def shrink(
    model: ModelArgument,
    data: Data,
    budget_ms: Budgets,
    weights: Weights = None,
    data_path: DataPath = None,
    runtime: RuntimeName = None,
    device_name: OnDevice = None,
    device: Device = None,
    epochs: Epochs = None,
    out: Out = None,
    seed: Seed = None,
    table: Table = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Make a trained network fast enough for a latency budget.

    Channels and residual blocks that cost more than they are worth are taken away, what is left is
    trained with the original as the teacher, exported to ONNX and checked. The exit code is 0 when
    the verdict is `pass`. A run that was stopped is continued by the same command with its --out.
    """
    from hwnas.config import read_overrides
    from hwnas.pipeline.model_source import load_model
    from hwnas.pipeline.shrink import flattened, read_named_data, shrink
    from hwnas.pipeline.stages import front_point
    from hwnas.runs.run_folder import RunFolder, next_run_folder

    seed = seed or 0
    stated = read_overrides(settings or [])
    with interruptible():
        dataset = read_named_data(data, data_path, stated.pop("data", {}), seed)
        folder = out or next_run_folder()
        shrink(
            load_model(model, weights),
            dataset,
            folder,
            budget_ms=budget_ms,
            runtime=runtime,
            device_name=device_name,
            device=device or "cpu",
            epochs=epochs,
            settings=flattened(stated),
            seed=seed,
            table=table,
        )
    files = RunFolder(folder)
    document = files.read_json(files.check)
    if len(budget_ms) > 1:
        members = [RunFolder(path.parent) for path in sorted(folder.glob("family/*/check.json"))]
        document["family"] = [front_point(one.read_json(one.check)) for one in members]
    finish_check(document, as_json, files.report)
