"""The verb `quantize`: a model in other number formats, judged and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.check import (
    Inputs,
    InspectMb,
    InspectSeconds,
    NoBatch,
    ScoreOutput,
    ScoreThreshold,
    Sizes,
    check_request,
    inspection_limits,
)
from hwnas.cli.options import Json, Set, interruptible
from hwnas.errors import InputError

VARIANTS = "fp16,int8,int8-dynamic"


def quantize(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="A float32 model, whatever made it.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE.npz",
            help="Samples: arrays named like the inputs, and `labels` to measure accuracy. The "
            "ranges of activations are taken from the first 256.",
        ),
    ],
    variants: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Number formats: fp16, int8, int8-tensor, int8-reduced, int8-dynamic, "
            "int8-dynamic-reduced and int8-mixed, separated by commas. The last measures each "
            "operator, and leaves those in float32 that would be slower or lose too much.",
        ),
    ] = VARIANTS,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="A node that stays float32; may be repeated."),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Also quantise each operator alone, and list what it costs."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the variants. Default: MODEL-variants."),
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(metavar="X", help="Latency budget in milliseconds.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="Runtime to measure on.")] = "onnxruntime-cpu",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the runtime.")] = 1,
    inputs: Inputs = None,
    sizes: Sizes = None,
    no_batch: NoBatch = False,
    score_output: ScoreOutput = None,
    score_threshold: ScoreThreshold = None,
    settings: Set = None,
    inspect_mb: InspectMb = None,
    inspect_seconds: InspectSeconds = None,
    as_json: Json = False,
) -> None:
    """Convert an ONNX model to other number formats.

    Each variant is compared with the model, judged by the gates of its format, and measured
    against the others. Writes the variants and DIR/variants.json; the exit code is 3 when one
    could not be made.
    """
    from hwnas.inspection.process import inspect_model, inspect_npz

    limits = inspection_limits(inspect_mb, inspect_seconds)
    inspected = inspect_model(model, limits)
    inspect_npz(data, limits)
    from hwnas.checking.inputs.open_sizes import StatedSizes, parse_shapes, parse_sizes
    from hwnas.cli.terminal import print_sensitivity, print_variants
    from hwnas.deploy.variants import MIXED, parse_variants
    from hwnas.pipeline.quantize import Quantization
    from hwnas.pipeline.quantize import quantize as quantize_model
    from hwnas.runs import progress

    shapes, *further = parse_shapes(inputs or [])
    if further:
        raise InputError("an input is named twice", where="--input")
    names = parse_variants(variants, [MIXED])
    what = Quantization(names, exclude or [], sensitivity, score_output, score_threshold)
    with interruptible():
        document = quantize_model(
            inspected,
            data,
            out or Path(f"{model.stem}-variants"),
            what,
            check_request(settings, budget_ms, None),
            runtime_name=runtime,
            threads=threads,
            stated=StatedSizes(shapes, parse_sizes(sizes or []), not no_batch),
            stage=progress.shown,
        )
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        print_variants(document)
        print_sensitivity(document["sensitivity"] or [])
    if any(entry["error"] for entry in document["variants"].values()):
        raise typer.Exit(3)
