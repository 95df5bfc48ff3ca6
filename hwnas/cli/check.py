"""The verb `check`: files in, verdict and exit code out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.check_files import (
    ending_written,
    enough_memory,
    remove_earlier_verdicts,
    require_apart,
    write_verdict,
)
from hwnas.cli.options import Json, OnDevice, Set, interruptible, opened
from hwnas.errors import InputError

if TYPE_CHECKING:
    from hwnas.checking.request import CheckRequest, ServingLoad
    from hwnas.inspection.process import Inspection

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}
BUDGETS = tuple(f"budget.{name}=" for name in ("memory_mb", "energy_mj", "load_ms", "first_ms"))

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME:SHAPE",
        help="Sizes of an input that the model leaves open, as in x:1x3x224x224; may be repeated, "
        "for other inputs and for further shapes to measure the latency at.",
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="NAME=N",
        help="A size that the model leaves open, by its name, as in sequence=128; the same in all "
        "inputs, and no batch; may be repeated.",
    ),
]
NoBatch = Annotated[
    bool,
    typer.Option("--no-batch", help="Open first dimensions of inputs are not the batch."),
]
ScoreOutput = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The output that gives the classes for `labels`, where several could.",
    ),
]
ScoreThreshold = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Least score of class 1, for an output with one score for each sample. Default: 0.5 "
        "for probabilities.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz",
        help="Samples: arrays named like the inputs, and `labels` to measure accuracy. Default: "
        "random inputs.",
    ),
]
Other = Annotated[
    Path | None,
    typer.Option(
        metavar="OTHER.onnx",
        help="A model whose outputs are taken as right, or an npz file with the right outputs for "
        "the samples in --data, under the outputs' names.",
    ),
]
ServeSeconds = Annotated[
    float | None,
    typer.Option(
        min=1,
        max=3600,
        help="Seconds to call one session from several threads, as a server would. Default: "
        "not done.",
    ),
]
ServeThreads = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Threads for --serve-seconds. Default: the number of cores."),
]
Junit = Annotated[
    Path | None, typer.Option(metavar="FILE.xml", help="Also write the verdict as JUnit XML.")
]
Markdown = Annotated[
    Path | None, typer.Option(metavar="FILE.md", help="Also write a summary in Markdown.")
]
InspectMb = Annotated[
    float | None,
    typer.Option(
        min=1, help="Memory limit in MB of the process that inspects the file. Default: 150."
    ),
]
InspectSeconds = Annotated[
    float | None,
    typer.Option(
        min=0.1, max=600, help="Limit of that process's processor time in seconds. Default: 0.4."
    ),
]


def check(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="The model to check, whatever made it.")
    ],
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="DIR",
            help="The run that the model comes from; gives data, network and limits.",
        ),
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Latency budget in milliseconds. Default: the run's, or none."
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="Runtime to check on. Default: the run's, or onnxruntime-cpu."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Threads of the runtime. Default: the run's, or 1."),
    ] = None,
    device_name: OnDevice = None,
    inputs: Inputs = None,
    sizes: Sizes = None,
    no_batch: NoBatch = False,
    data: Data = None,
    score_output: ScoreOutput = None,
    score_threshold: ScoreThreshold = None,
    reference: Other = None,
    serve_seconds: ServeSeconds = None,
    serve_threads: ServeThreads = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Latency measured elsewhere, as `measure.py --model` or trtexec wrote it. "
            "Default: measure here.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A latency table of this device. Its time of the speed reference tells a slow "
            "machine from a slow model. Default: the run's, or none.",
        ),
    ] = None,
    settings: Set = None,
    junit: Junit = None,
    markdown: Markdown = None,
    inspect_mb: InspectMb = None,
    inspect_seconds: InspectSeconds = None,
    as_json: Json = False,
) -> None:
    """Check an ONNX model and give a verdict.

    Checks what the model computes, how fast it is and what it needs. The exit code is 0 for
    `pass`, 1 for `fail`, 2 for a refused model, 3 for `inconclusive`, 4 for an unforeseen error.
    """
    written = {"--junit": junit, "--markdown": markdown}
    require_apart(written, (model, data, reference, measured, table))
    with ending_written(model, junit, markdown, as_json=as_json), enough_memory(model):
        if budget_ms is not None and not 0 < budget_ms < float("inf"):
            raise InputError("not a latency", where="--budget-ms", expected="> 0", actual=budget_ms)
        if measured is not None:
            # Figures of this machine must not stand beside the latency of another one.
            of_here = {f"--set {s}": s for s in settings or [] if s.startswith(BUDGETS)}
            here = {
                "--serve-seconds": serve_seconds,
                "--table": table,
                "--device-name": device_name,
                **of_here,
            }
            _refuse(here, "--measured")
        if device_name is not None:
            # Their figures would be those of this machine.
            of_here = {f"--set {s}": s for s in settings or [] if s.startswith(BUDGETS)}
            _refuse({"--serve-seconds": serve_seconds, **of_here}, "--device-name")
        remove_earlier_verdicts(written)
        # Inspected before anything heavy is imported: most broken files are refused here.
        from hwnas.inspection.process import inspect_model, inspect_npz

        limits = inspection_limits(inspect_mb, inspect_seconds)
        inspected = inspect_model(model, limits)
        other: Inspection | Path | None = None
        if reference is not None and reference.suffix.lower() == ".npz":
            inspect_npz(reference, limits)
            other = reference
        elif reference is not None:
            other = inspect_model(reference, limits)
        if data is not None:
            inspect_npz(data, limits)
        if data is None:
            scored = {"--score-output": score_output, "--score-threshold": score_threshold}
            _refuse(scored, "no --data")
        load = _load(serve_seconds, serve_threads)
        if run_folder is not None:
            of_files = {
                "--threads": threads,
                "--input": inputs,
                "--size": sizes,
                "--no-batch": no_batch or None,
                "--data": data,
                "--score-output": score_output,
                "--score-threshold": score_threshold,
                "--reference": reference,
                "--table": table,
                "--set": settings,
            }
            _refuse(of_files, "--run")
            document, result = _check_of_run(
                run_folder, inspected, device_name, runtime, budget_ms, measured, load
            )
        else:
            from hwnas.checking.inputs.open_sizes import parse_shapes, parse_sizes

            result, request = None, check_request(settings, budget_ms, load)
            first, *further = parse_shapes(inputs or [])
            document = _check_of_file(
                inspected,
                request,
                runtime_name=runtime,
                threads=threads,
                device_name=device_name,
                shapes=first,
                more_shapes=further,
                sizes=parse_sizes(sizes or []),
                has_batch=not no_batch,
                data=data,
                score_output=score_output,
                score_threshold=score_threshold,
                reference=other,
                measured=measured,
                table=table,
            )
    write_verdict(document, junit, markdown)
    finish_check(document, as_json, result)


def _check_of_run(
    run_folder: Path,
    inspected: Inspection,
    device_name: str | None,
    runtime: str | None,
    budget_ms: float | None,
    measured: Path | None,
    load: ServingLoad | None,
) -> tuple[dict[str, Any], Path | None]:
    """Check a model of a run; returns the document, and the page that shows it if there is one."""
    from hwnas.pipeline import check as check_stage
    from hwnas.pipeline.report import report, report_variant

    with opened(run_folder) as current:
        run = current if device_name is None else current.on_device(device_name)
        run = run if runtime is None else run.on_runtime(runtime)
        document = check_stage.check(run, inspected.path, budget_ms, measured, load, inspected)
        written: Path | None = current.folder.check_of(inspected.path)
        if written is None:
            return document, None
        if written != current.folder.check:
            return document, report_variant(current.folder, written)
        return document, report(current.folder.path)


def _check_of_file(inspected: Inspection, request: CheckRequest, **options: Any) -> dict[str, Any]:
    """Check a model of any maker; `options` are those of `check_file`."""
    from hwnas.checking.check import check_file
    from hwnas.runs import progress

    with interruptible():
        return check_file(inspected, request, stage=progress.shown, **options)


def check_request(
    settings: list[str] | None, budget_ms: float | None, load: ServingLoad | None
) -> CheckRequest:
    """What a check without a run is asked for."""
    from hwnas.checking.request import CheckRequest

    config = _config(settings)
    return CheckRequest(
        limits=config.check,
        budget_ms=budget_ms,
        memory_budget_mb=config.budget.memory_mb,
        energy_budget_mj=config.budget.energy_mj,
        load_budget_ms=config.budget.load_ms,
        first_budget_ms=config.budget.first_ms,
        load=load,
    )


def _refuse(options: dict[str, Any], beside: str) -> None:
    """Refuse options that would have no effect."""
    for name, value in options.items():
        if value is not None and value != []:
            raise InputError(f"cannot be combined with {beside}", where=name)


def inspection_limits(memory_mb: float | None, seconds: float | None) -> Any:
    """Limits of the process that inspects a file, by default those of `InspectionLimits`."""
    from hwnas.inspection.process import InspectionLimits

    default = InspectionLimits()
    return InspectionLimits(memory_mb or default.memory_mb, seconds or default.seconds)


def _load(seconds: float | None, threads: int | None) -> Any:
    from hwnas.checking.request import ServingLoad

    if seconds is None:
        _refuse({"--serve-threads": threads}, "no --serve-seconds")
        return None
    return ServingLoad(threads or os.cpu_count() or 1, seconds)


def _config(settings: list[str] | None) -> Any:
    """A configuration with the limits of the gates; other settings are for runs only."""
    from hwnas.config import load_config

    for setting in settings or []:
        if not setting.startswith(("check.", *BUDGETS)):
            raise InputError(
                "this setting does not apply to a check",
                where=f"--set {setting}",
                expected=f"check.NAME=VALUE, {', '.join(f'{budget}VALUE' for budget in BUDGETS)}",
            )
    return load_config(None, settings or [])


def finish_check(document: dict[str, Any], as_json: bool, result: Path | None) -> None:
    """Print a check's result and end with its exit code.

    Args:
        document: the content of `check.json`.
        as_json: print the document instead of tables.
        result: the page or document that the result can be read in, if one was written.
    """
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        from hwnas.cli.terminal import print_check

        print_check(document, result)
    verdicts = [document["verdict"], *(member["verdict"] for member in document.get("family", []))]
    raise typer.Exit(max((EXIT_CODES[v] for v in verdicts), key=[0, 3, 1].index))
