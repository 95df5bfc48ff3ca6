"""The verbs of single stages: `profile`, `train`, `export` and `report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import (
    ConfigArgument,
    Force,
    Json,
    OnDevice,
    Resume,
    RunArgument,
    Set,
    SpaceName,
    interruptible,
    opened,
    overrides_for_space,
    print_result,
)
from hwnas.cli.table import table_facts
from hwnas.errors import InputError

Variants = Annotated[
    str | None,
    typer.Option(
        "--variants",
        metavar="NAMES",
        help="Export and compare these number formats, separated by commas: fp32, fp16, int8, "
        "int8-tensor, int8-dynamic. Default: model.onnx in float32 alone.",
    ),
]


def profile(
    config: ConfigArgument = None,
    space: SpaceName = None,
    settings: Set = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="Runtime, one of `hwnas info`. Default: the configuration's."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Samples in one inference. Default: the configuration's."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Number format of the operators: float32.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of the runtime. Default: the configuration's."),
    ] = None,
    device_name: OnDevice = None,
    seconds: Annotated[
        float, typer.Option(min=0.05, help="Time to measure each operator, on average, in seconds.")
    ] = 0.5,
    out: Annotated[Path, typer.Option(metavar="TABLE.json", help="File of the new table.")] = Path(
        "latency_table.json"
    ),
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write models and a measuring script for another device to this folder instead.",
        ),
    ] = None,
    networks: Annotated[
        int, typer.Option("-n", min=0, max=1000, help="Number of whole networks in the bundle.")
    ] = 10,
    as_json: Json = False,
) -> None:
    """Measure a latency table on this machine, or on a device that is elsewhere.

    Every operator of the search space is measured on the runtime. With --bundle, models and a
    script for another device are written instead.
    """
    from hwnas.pipeline import profile as profiling
    from hwnas.pipeline.configuration import load_config
    from hwnas.runs import progress

    changes = {
        "latency.device": device_name,
        "latency.runtime": runtime,
        "latency.batch": batch,
        "latency.dtype": dtype,
        "latency.threads": threads,
    }
    overrides = [f"{k}={json.dumps(v)}" for k, v in changes.items() if v is not None]
    given = overrides_for_space(config, space, settings)
    loaded = load_config(config, [*given, *overrides])
    if bundle is not None:
        manifest = profiling.bundle(loaded, bundle, networks)
        models = sum(len(group.models) for group in manifest.groups)
        text = f"{bundle}: {models} models; run `python measure.py` in it on the device"
        print_result({"bundle": str(bundle), "models": models}, as_json, text)
        return
    with interruptible():
        table = profiling.profile(loaded, out, seconds=seconds, stage=progress.shown)
    document = {"table": str(out), "operators": len(table.operators), **table_facts(table)}
    text = f"{out}: {len(table.operators)} operators of {table.device.device}"
    print_result(document, as_json, text)


def train(
    folder: RunArgument, resume: Resume = False, force: Force = False, as_json: Json = False
) -> None:
    """Train the architecture that was found.

    Writes DIR/weights.safetensors and DIR/metrics.json. Weights that are there already are only
    replaced with --force.
    """
    from hwnas.pipeline.train import train as train_network
    from hwnas.reporting.formatting import in_words

    with opened(folder) as current:
        weights = current.folder.weights
        if weights.exists() and not force:
            raise InputError(
                "the architecture is trained already",
                where=str(weights),
                mend="--force trains it again and replaces the weights",
            )
        metrics = train_network(current, restart=not resume)
    metric = metrics["metric"]
    text = f"test {in_words(metric)} {metrics[metric]:.2%} after {metrics['epochs']} epochs"
    print_result(metrics, as_json, text)


def export(
    folder: RunArgument,
    variants: Variants = None,
    microcontroller: Annotated[
        bool,
        typer.Option(
            "--microcontroller",
            help="Write an int8 program in plain C and a LiteRT file to DIR/microcontroller.",
        ),
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Export the trained network to ONNX, or as a program for a microcontroller.

    Writes DIR/model.onnx. With --variants, other number formats are written to DIR/variants,
    checked and measured against each other; the exit code is 3 when one could not be made.
    Variants of an earlier model are only removed with --force.
    """
    from hwnas.pipeline.export import export as export_model

    if microcontroller:
        _export_microcontroller(folder, as_json)
        return
    if variants is not None:
        _export_variants(folder, variants, force, as_json)
        return
    with opened(folder) as current:
        path = export_model(current, force=force)
    size = path.stat().st_size
    print_result({"model": str(path), "size_bytes": size}, as_json, f"{path}: {size / 1e6:.2f} MB")


def _export_microcontroller(folder: Path, as_json: bool) -> None:
    """Write the program for microcontrollers, and say what it takes."""
    from hwnas.budget.sizes import Size
    from hwnas.pipeline.microcontroller import export_microcontroller
    from hwnas.reporting.formatting import in_words

    with opened(folder) as current:
        document = export_microcontroller(current)
        target = current.folder.microcontroller
    size = Size(document["ram_bytes"], document["flash_bytes"], document["macs"])
    text = (
        f"{target}: {size.in_words()}; test {in_words(document['metric'])} {document['score']:.2%} "
        f"({document['score_float32']:.2%} in float32)"
    )
    if document["litert"] is not None:
        text += f"; no LiteRT file: {document['litert']}"
    print_result(document, as_json, text)


def _export_variants(folder: Path, variants: str, force: bool, as_json: bool) -> None:
    """Export the variants, check and measure them; exit code 3 when one could not be made."""
    from hwnas.cli.terminal import print_variants
    from hwnas.deploy.variants import parse_variants
    from hwnas.pipeline import variants as variants_stage
    from hwnas.pipeline.export import export as export_model

    names = parse_variants(variants)
    with opened(folder) as current:
        variants_stage.require_measurable(current)
        export_model(current, force=force)
        document = variants_stage.export_variants(current, names, force=force)
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        print_variants(document)
    if any(entry["error"] for entry in document["variants"].values()):
        raise typer.Exit(3)


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Run folders, or one folder that contains runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="File of the comparison. Default: comparison.html."),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="LOGDIR",
            help="Write the runs' histories for TensorBoard to this folder instead.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's report, or compare runs.

    One run folder gets DIR/report.html; a folder that contains runs, or several run folders, get
    a comparison.
    """
    from hwnas.pipeline import report as report_stage

    if out is not None and (tensorboard is not None or len(folders) == 1):
        raise InputError(
            "--out is for a comparison of several runs", where="--out", actual=str(out)
        )
    if tensorboard is not None:
        report_stage.write_tensorboard(folders, tensorboard)
        text = f"{tensorboard}: open it with `tensorboard --logdir {tensorboard}`"
        print_result({"tensorboard": str(tensorboard)}, as_json, text)
        return
    if len(folders) == 1:
        path = report_stage.report(folders[0])
    else:
        path = report_stage.compare(folders, out or Path("comparison.html"))
    print_result({"report": str(path)}, as_json, str(path))
