"""The command line: one function a verb. Heavy imports happen inside the verbs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.check import check, finish_check
from hwnas.cli.info import info, space_app, spaces
from hwnas.cli.options import (
    ConfigArgument,
    Json,
    RunArgument,
    Set,
    SpaceName,
    example,
    interruptible,
    opened,
    overrides_for_space,
    print_result,
)
from hwnas.cli.strategies import bench_app, strategies, tune
from hwnas.cli.table import predict, table_app, table_facts
from hwnas.errors import HwnasError, InputError

if TYPE_CHECKING:
    from hwnas.runs.ranks import Ranks

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Data, a device and a latency budget in; a checked ONNX model that keeps the budget out.",
)


class DeviceName(StrEnum):
    """Where search and training run."""

    cpu = "cpu"
    cuda = "cuda"


Budgets = Annotated[
    list[float] | None,
    typer.Option(
        "--budget-ms",
        metavar="X",
        help="Latency budget in milliseconds; several give a family, or one for each --table.",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="As `hwnas strategies` lists them."),
]
Confidence = Annotated[
    float | None,
    typer.Option("--budget-confidence", metavar="P", help="Keep the budget with probability P."),
]
DeviceFile = Annotated[
    Path | None,
    typer.Option(
        "--device-measurements",
        metavar="FILE.csv",
        help="Networks' latencies that stand for a device that is not here.",
    ),
]
TableOptions = Annotated[
    list[Path] | None,
    typer.Option(
        "--table",
        metavar="TABLE.json",
        help="Latency table to use; further ones are of devices that are not here.",
    ),
]
Variants = Annotated[
    str | None,
    typer.Option(
        "--variants",
        metavar="NAMES",
        help="Other number formats too: fp32,fp16,int8,int8-tensor,int8-dynamic.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")]


@app.command(epilog=example("hwnas run --budget-ms 0.5 --out runs/first"))
def run(
    config: ConfigArgument = None,
    budget_ms: Budgets = None,
    table: TableOptions = None,
    device: Annotated[DeviceName | None, typer.Option(help="Where to search and train.")] = None,
    out: Out = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    strategy: Strategy = None,
    confidence: Confidence = None,
    device_measurements: DeviceFile = None,
    resume: Resume = False,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Profile, search, train, export and check, all in a row."""
    from hwnas.pipeline import stages
    from hwnas.runs import progress
    from hwnas.runs.ranks import joined
    from hwnas.runs.run_folder import next_run_folder

    loaded = _config(
        config,
        settings,
        out,
        resume,
        {
            **_budgets(budget_ms, table),
            "budget.confidence": confidence,
            "latency.device_measurements": _text(device_measurements),
            "device": device,
            "seed": seed,
            "search.strategy": strategy,
        },
    )
    folder = out or next_run_folder()
    with interruptible(), joined() as ranks:
        if _assists(ranks, out):
            return
        document = stages.run(
            loaded, folder, table=_first(table), resume=resume, stage=progress.shown, ranks=ranks
        )
    finish_check(document, as_json, folder)


@app.command(epilog=example("hwnas profile --runtime onnxruntime-cpu --out table.json"))
def profile(
    config: ConfigArgument = None,
    space: SpaceName = None,
    settings: Set = None,
    runtime: Annotated[str | None, typer.Option(help="Where the model will run.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per inference.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Number format.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime.")] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="Of measuring, an operator.")] = 0.5,
    out: Annotated[Path, typer.Option(metavar="TABLE.json", help="The table.")] = Path(
        "latency_table.json"
    ),
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write models and a script for another device instead."),
    ] = None,
    networks: Annotated[
        int, typer.Option("-n", min=0, max=1000, help="Whole networks in the bundle.")
    ] = 10,
    as_json: Json = False,
) -> None:
    """Measure the operators of a search space on a runtime of this device."""
    from hwnas.config import load_config
    from hwnas.pipeline import profile as profiling
    from hwnas.runs import progress

    changes = {
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


@app.command(epilog=example("hwnas search default --table table.json --budget-ms 0.5 --out DIR"))
def search(
    config: ConfigArgument,
    table: TableOptions = None,
    budget_ms: Budgets = None,
    out: Out = None,
    strategy: Strategy = None,
    confidence: Confidence = None,
    device_measurements: DeviceFile = None,
    resume: Resume = False,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Search an architecture that keeps the budget; writes DIR/architecture.json."""
    from hwnas.pipeline import stages
    from hwnas.runs import progress
    from hwnas.runs.ranks import joined
    from hwnas.runs.run_folder import RunFolder, next_run_folder

    changes = {
        **_budgets(budget_ms, table),
        "budget.confidence": confidence,
        "latency.device_measurements": _text(device_measurements),
        "search.strategy": strategy,
    }
    loaded = _config(config, settings, out, resume, changes)
    path = out or next_run_folder()
    with interruptible(), joined() as ranks:
        if _assists(ranks, out):
            return
        given = _first(table)
        stages.search(loaded, path, table=given, resume=resume, stage=progress.shown, ranks=ranks)
    folder = RunFolder(path)
    document = folder.read_json(folder.architecture)
    text = f"{folder.architecture}: predicted {document['predicted_ms']:.4g} ms"
    print_result(document, as_json, text)


@app.command(epilog=example("hwnas train runs/first"))
def train(folder: RunArgument, resume: Resume = False, as_json: Json = False) -> None:
    """Train the run's architecture; writes weights and metrics."""
    from hwnas.pipeline import stages
    from hwnas.reporting.html import in_words

    with opened(folder) as current:
        metrics = stages.train(current, restart=not resume)
    metric = metrics["metric"]
    text = f"test {in_words(metric)} {metrics[metric]:.2%} after {metrics['epochs']} epochs"
    print_result(metrics, as_json, text)


@app.command(epilog=example("hwnas export runs/first"))
def export(folder: RunArgument, variants: Variants = None, as_json: Json = False) -> None:
    """Export the run's trained network to DIR/model.onnx, and variants of it to DIR/variants."""
    from hwnas.pipeline import stages

    if variants is not None:
        _export_variants(folder, variants, as_json)
        return
    with opened(folder) as current:
        path = stages.export(current)
    size = path.stat().st_size
    print_result({"model": str(path), "size_bytes": size}, as_json, f"{path}: {size / 1e6:.2f} MB")


def _export_variants(folder: Path, variants: str, as_json: bool) -> None:
    """Export, judge and measure; what could not be made ends with exit code 3."""
    from hwnas.cli.terminal import print_variants
    from hwnas.deploy.variants import parse_variants
    from hwnas.pipeline import stages
    from hwnas.pipeline import variants as variants_stage

    names = parse_variants(variants)
    with opened(folder) as current:
        variants_stage.require_measurable(current)
        stages.export(current)
        document = variants_stage.export_variants(current, names)
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        print_variants(document)
    if any(entry["error"] for entry in document["variants"].values()):
        raise typer.Exit(3)


@app.command(epilog=example("hwnas report runs/first"))
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Run folders, or a folder of runs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The comparison; ./comparison.html by default."),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="LOGDIR", help="Write the runs' histories for TensorBoard instead."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write DIR/report.html: of a run, or of all runs in DIR; several DIR are compared."""
    from hwnas.pipeline import report as report_stage

    if out is not None and (tensorboard is not None or len(folders) == 1):
        raise InputError("only for a comparison of several runs", where="--out", actual=str(out))
    if tensorboard is not None:
        report_stage.write_tensorboard(folders, tensorboard)
        text = f"{tensorboard}: look at it with `tensorboard --logdir {tensorboard}`"
        print_result({"tensorboard": str(tensorboard)}, as_json, text)
        return
    if len(folders) == 1:
        path = report_stage.report(folders[0])
    else:
        path = report_stage.compare(folders, out or Path("comparison.html"))
    print_result({"report": str(path)}, as_json, str(path))


app.command(epilog=example("hwnas check model.onnx --budget-ms 5 --junit check.xml"))(check)
app.add_typer(table_app, name="table")
app.add_typer(space_app, name="space")
app.add_typer(bench_app, name="bench")
app.command(epilog=example("hwnas strategies --json"))(strategies)
app.command(epilog=example("hwnas tune --strategy evolution --storage tune.log"))(tune)
app.command(epilog=example("hwnas predict --table T.json --archs a.csv --out p.csv"))(predict)
app.command(epilog=example("hwnas info architecture.json --svg cells.svg"))(info)
app.command(epilog=example("hwnas spaces --json"))(spaces)


def _config(
    source: str | None,
    settings: list[str] | None,
    out: Path | None,
    resume: bool,
    changes: dict[str, Any],
) -> Any:
    """The configuration of a run; a resumed one is read from its folder."""
    from hwnas.config import load_config

    if resume and out is None:
        raise InputError("which run?", where="--resume", mend="name its folder with --out")
    if resume and source is None:
        source = str(out / "config.toml") if out else None
        if not Path(source or "").exists():
            raise InputError("no run to resume", where=str(out))
    overrides = [f"{k}={_toml(v)}" for k, v in changes.items() if v is not None]
    return load_config(source, [*(settings or []), *overrides])


def _budgets(budgets_ms: list[float] | None, tables: list[Path] | None) -> dict[str, Any]:
    """Settings of one budget a device, or of a family on one device."""
    budgets_ms, others = budgets_ms or [], (tables or [])[1:]
    if not others:
        return {
            "budget.ms": budgets_ms[0] if budgets_ms else None,
            "budget.family_ms": budgets_ms[1:] or None,
        }
    if len(budgets_ms) not in (1, 1 + len(others)):
        raise InputError(
            "one budget for all devices, or one for each",
            where="--budget-ms",
            expected=f"1 or {1 + len(others)}",
            actual=len(budgets_ms),
        )
    for_others = budgets_ms[1:] or budgets_ms * len(others)
    devices = [
        {"table": str(path), "budget_ms": budget_ms}
        for path, budget_ms in zip(others, for_others, strict=True)
    ]
    return {"budget.ms": budgets_ms[0], "devices": devices}


def _assists(ranks: Ranks, out: Path | None) -> bool:
    """Take part in what the first of several processes leads; False in that one.

    Raises:
        InputError: without a folder that all of them know.
    """
    from hwnas.pipeline import stages

    if ranks.size > 1 and out is None:
        raise InputError(
            "several processes need to know the folder",
            where="--out",
            mend="name one, on a disk that all of them share",
        )
    if ranks.writes or out is None:
        return False
    stages.assist(out, ranks)
    return True


def _first(tables: list[Path] | None) -> Path | None:
    """This device's table."""
    return tables[0] if tables else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _toml(value: Any) -> str:
    """A value as TOML; mappings become inline tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected error ends in one line on stderr."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(_guarded(lambda: app(args=given or ["--help"], standalone_mode=False)))


def _guarded(call: Callable[[], Any]) -> int:
    try:
        result = call()
    except HwnasError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _fail(f"{error.format_message()}; see `hwnas --help`", 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped", 130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"hwnas: {' '.join(message.split())}", file=sys.stderr)
    return code
