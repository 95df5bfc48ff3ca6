"""The command line, put together from the modules of its verbs.

Heavy imports happen inside the verbs, so that help and usage errors come at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from hwnas.cli.check import check
from hwnas.cli.demo import demo
from hwnas.cli.devices import devices_app
from hwnas.cli.explain import diagnose, explain
from hwnas.cli.infer import infer
from hwnas.cli.info import info, space_app, spaces
from hwnas.cli.knowledge import knowledge_app, remember
from hwnas.cli.meta_train import meta_train
from hwnas.cli.options import example
from hwnas.cli.quantize import quantize
from hwnas.cli.run import run, search
from hwnas.cli.shrink import shrink
from hwnas.cli.stages import export, profile, report, train
from hwnas.cli.strategies import bench_app, strategies, tune
from hwnas.cli.suggest import suggest
from hwnas.cli.table import predict_by_old_name, table_app
from hwnas.cli.watch import watch
from hwnas.errors import NO_MEMORY, HwnasError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
    invoke_without_command=True,
)
VERBS: dict[Callable[..., None], str] = {
    run: "hwnas run --budget-ms 0.5 --out runs/first",
    profile: "hwnas profile --runtime onnxruntime-cpu --out table.json",
    search: "hwnas search default --table table.json --budget-ms 0.5 --out DIR",
    shrink: "hwnas shrink nets:resnet --weights resnet.safetensors --data cifar10 --budget-ms 1",
    train: "hwnas train runs/first",
    export: "hwnas export runs/first",
    report: "hwnas report runs/first",
    watch: "hwnas watch runs/first",
    explain: "hwnas explain runs/first",
    diagnose: "hwnas diagnose runs/first",
    meta_train: "hwnas meta-train first.toml second.toml --out starts/photos",
    remember: "hwnas remember runs/first --knowledge searches.db",
    suggest: "hwnas suggest --knowledge searches.db --table table.json --budget-ms 0.5 -n 10",
    check: "hwnas check model.onnx --budget-ms 5 --junit check.xml",
    demo: "hwnas demo runs/first",
    infer: "hwnas infer runs/first/model.onnx photo.png --top 3",
    quantize: "hwnas quantize model.onnx --data samples.npz --variants fp16,int8",
    strategies: "hwnas strategies --json",
    tune: "hwnas tune --strategy evolution --storage tune.log",
    info: "hwnas info architecture.json --svg cells.svg",
    spaces: "hwnas spaces --json",
}
"""Each verb with the example that its help ends with, in the order of `hwnas --help`."""

for _verb, _line in VERBS.items():
    app.command(epilog=example(_line))(_verb)
app.command("predict", hidden=True)(predict_by_old_name)
app.add_typer(table_app, name="table")
app.add_typer(devices_app, name="devices")
app.add_typer(space_app, name="space")
app.add_typer(bench_app, name="bench")
app.add_typer(knowledge_app, name="knowledge")


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True),
    ] = False,
) -> None:
    """Data, a device and a latency budget in; a checked ONNX model that keeps the budget out."""
    if version:
        from importlib.metadata import version as installed

        print(f"hwnas {installed('hwnas')}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error ends in one line on stderr."""
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
    except MemoryError:  # which leaves none to import what follows
        return _fail(NO_MEMORY, 2)
    except Exception as error:  # a user gets one line of it, and a file to report
        from hwnas.cli.unforeseen import ending

        ended = ending(error, "ended with an unforeseen error")
        return _fail(str(ended), ended.exit_code)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"hwnas: {' '.join(message.split())}", file=sys.stderr)
    return code
