"""The verbs `run` and `search`: a configuration in, an architecture or a checked model out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hwnas.cli.check import finish_check
from hwnas.cli.options import (
    ConfigArgument,
    Json,
    Resume,
    Set,
    interruptible,
    print_result,
)
from hwnas.errors import InputError

if TYPE_CHECKING:
    from hwnas.config import Config
    from hwnas.runs.ranks import Ranks


T = TypeVar("T")


class DeviceName(StrEnum):
    """Where search and training run."""

    cpu = "cpu"
    cuda = "cuda"


Budgets = Annotated[
    list[float] | None,
    typer.Option(
        "--budget-ms",
        metavar="X",
        help="Latency budget in milliseconds. Given several times, one search finds a model for "
        "each budget; with several --table, there is one budget for each device. Default: the "
        "configuration's.",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="Search strategy, one of `hwnas strategies`. Default: the configuration's.",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--budget-confidence",
        metavar="P",
        help="Probability with which the predicted latency has to keep the budget, at least 0.5. "
        "Default: the mean prediction has to keep it.",
    ),
]
DeviceFile = Annotated[
    Path | None,
    typer.Option(
        "--device-measurements",
        metavar="FILE.csv",
        help="Measured latencies of networks (columns arch, latency_ms) on a device that is "
        "elsewhere; they take the place of measurements. Default: measure on this machine.",
    ),
]
OnDevices = Annotated[
    list[str] | None,
    typer.Option(
        "--device-name",
        metavar="NAME",
        help="Measure on this device of devices.toml, which is elsewhere (`hwnas devices list`). "
        "Further ones have their budgets kept too. Default: measure on this machine.",
    ),
]
TableOptions = Annotated[
    list[Path] | None,
    typer.Option(
        "--table",
        metavar="TABLE.json",
        help="Latency table of the device. Further ones are of devices that are elsewhere, whose "
        "budgets are kept too. Default: measure one first.",
    ),
]
RuntimeName = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="Runtime that the model is deployed on, one of `hwnas info`. Default: the "
        "configuration's.",
    ),
]
Device = Annotated[
    DeviceName | None,
    typer.Option("--device", help="Where to search and train. Default: the configuration's."),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of everything random. Default: the configuration's."),
]
Controls = Annotated[
    int | None,
    typer.Option(
        "--controls",
        metavar="N",
        help="Train N random networks too, with the largest within the budget and hand-made ones, "
        "to see what the search bought. Default: the configuration's, which is usually none.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        metavar="N",
        help="Time limit of the run without its controls; training gets what the search leaves. "
        "Default: the configuration's, which is usually none.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="The run folder. Default: the next free runs/run-NNN."
    ),
]


def run(
    config: ConfigArgument = None,
    budget_ms: Budgets = None,
    table: TableOptions = None,
    runtime: RuntimeName = None,
    device: Device = None,
    device_name: OnDevices = None,
    out: Out = None,
    seed: Seed = None,
    strategy: Strategy = None,
    confidence: Confidence = None,
    device_measurements: DeviceFile = None,
    controls: Controls = None,
    minutes: Minutes = None,
    resume: Resume = False,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Search, train, export and check a model.

    All stages in a row: the latency table is measured if none is given, an architecture that
    keeps the budget is searched and trained, the network is exported to ONNX and checked. The
    exit code is 0 when the verdict is `pass`. A run that is finished is left as it is.
    """
    from hwnas.pipeline import stages
    from hwnas.runs.run_folder import next_run_folder

    options = _options(
        budget_ms,
        table,
        runtime,
        device,
        device_name,
        seed,
        strategy,
        confidence,
        device_measurements,
    ) | {"controls": controls, "minutes": minutes}
    loaded, source = _config(config, settings, out, resume, options)
    with _ranks(out) as ranks:
        if ranks is None:
            return
        folder = out or next_run_folder()
        document = stages.run(
            loaded,
            folder,
            table=_first(table),
            resume=resume,
            ranks=ranks,
            source=source,
        )
    finish_check(document, as_json, folder / "report.html")


def search(
    config: ConfigArgument = None,
    budget_ms: Budgets = None,
    table: TableOptions = None,
    runtime: RuntimeName = None,
    device: Device = None,
    device_name: OnDevices = None,
    out: Out = None,
    seed: Seed = None,
    strategy: Strategy = None,
    confidence: Confidence = None,
    device_measurements: DeviceFile = None,
    resume: Resume = False,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Search an architecture within the budget.

    The result is DIR/architecture.json. `hwnas train`, `export` and `check` continue from there.
    """
    from hwnas.pipeline import stages
    from hwnas.runs.run_folder import RunFolder, next_run_folder

    options = _options(
        budget_ms,
        table,
        runtime,
        device,
        device_name,
        seed,
        strategy,
        confidence,
        device_measurements,
    )
    loaded, source = _config(config, settings, out, resume, options)
    with _ranks(out) as ranks:
        if ranks is None:
            return
        path = out or next_run_folder()
        stages.search(
            loaded,
            path,
            table=_first(table),
            resume=resume,
            ranks=ranks,
            source=source,
        )
    folder = RunFolder(path)
    document = folder.read_json(folder.architecture)
    text = f"{folder.architecture}: predicted {document['predicted_ms']:.4g} ms"
    print_result(document, as_json, text)


def _options(
    budgets_ms: list[float] | None,
    tables: list[Path] | None,
    runtime: str | None,
    device: DeviceName | None,
    device_names: list[str] | None,
    seed: int | None,
    strategy: str | None,
    confidence: float | None,
    device_measurements: Path | None,
) -> dict[str, Any]:
    """The settings that the options of `run` and `search` change, by key."""
    return {
        **_budgets(budgets_ms, tables, device_names),
        "latency.runtime": runtime,
        "device": device,
        "latency.device": _first(device_names),
        "seed": seed,
        "search.strategy": strategy,
        "budget.confidence": confidence,
        "latency.device_measurements": _text(device_measurements),
    }


def _config(
    source: str | None,
    settings: list[str] | None,
    out: Path | None,
    resume: bool,
    changes: dict[str, Any],
) -> tuple[Config, str]:
    """The configuration of a run and its name in errors; a resumed one is read from its folder."""
    from hwnas.config import config_name
    from hwnas.pipeline.configuration import load_config

    if resume and out is None:
        raise InputError(
            "the run to resume is not named", where="--resume", mend="name its folder with --out"
        )
    if resume and source is None:
        source = str(out / "config.toml") if out else None
        if not Path(source or "").exists():
            raise InputError("no run to resume", where=str(out))
    overrides = [f"{k}={_toml(v)}" for k, v in changes.items() if v is not None]
    return load_config(source, [*(settings or []), *overrides]), config_name(source)


def _budgets(
    budgets_ms: list[float] | None, tables: list[Path] | None, names: list[str] | None
) -> dict[str, Any]:
    """The settings for several budgets: one for each device, or a family on one device."""
    budgets_ms = budgets_ms or []
    others: list[dict[str, Any]] = [{"table": str(path)} for path in (tables or [])[1:]]
    others += [{"name": name} for name in (names or [])[1:]]
    if not others:
        return {
            "budget.ms": budgets_ms[0] if budgets_ms else None,
            "budget.family_ms": budgets_ms[1:] or None,
        }
    if len(budgets_ms) not in (1, 1 + len(others)):
        raise InputError(
            "give one budget for all devices, or one for each",
            where="--budget-ms",
            expected=f"1 or {1 + len(others)}",
            actual=len(budgets_ms),
        )
    for_others = budgets_ms[1:] or budgets_ms * len(others)
    devices = [
        {**other, "budget_ms": budget_ms}
        for other, budget_ms in zip(others, for_others, strict=True)
    ]
    return {"budget.ms": budgets_ms[0], "devices": devices}


@contextmanager
def _ranks(out: Path | None) -> Iterator[Ranks | None]:
    """The processes that search together; None in those that only assist, once they are done.

    Raises:
        InputError: when several processes have no run folder in common.
    """
    from hwnas.pipeline import stages
    from hwnas.runs.ranks import joined

    with interruptible(), joined() as ranks:
        if ranks.size > 1 and out is None:
            raise InputError(
                "several processes need the same run folder",
                where="--out",
                mend="name one, on a disk that all of them share",
            )
        if ranks.writes or out is None:
            yield ranks
        else:
            stages.assist(out, ranks)
            yield None


def _first(given: list[T] | None) -> T | None:
    """What is given for the first device."""
    return given[0] if given else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _toml(value: Any) -> str:
    """A value as TOML; mappings become inline tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value)
