"""The verbs of `hwnas table`: latency tables are made, checked, compared and used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.options import (
    ConfigArgument,
    Json,
    OnDevice,
    Set,
    SpaceName,
    example,
    interruptible,
    print_result,
)
from hwnas.errors import InputError

if TYPE_CHECKING:
    from hwnas.calibration.prior import Prior
    from hwnas.latency_tables.table import LatencyTable
    from hwnas.spaces.base import SearchSpace

table_app = typer.Typer(rich_markup_mode=None, help="Make, check and compare latency tables.")
Tables = Annotated[list[Path], typer.Argument(metavar="TABLE.json ...", help="Latency tables.")]
Table = Annotated[Path, typer.Argument(metavar="TABLE.json", help="A latency table.")]
OutTable = Annotated[Path, typer.Option("--out", metavar="TABLE.json", help="The new table.")]
Measurements = Annotated[
    Path, typer.Option(metavar="FILE.csv", help="Measured networks, columns arch and latency_ms.")
]


@table_app.command(epilog=example("hwnas table validate table.json"))
def validate(tables: Tables, as_json: Json = False) -> None:
    """Check that tables are well formed and unchanged since they were written."""
    from hwnas.latency_tables.shipped import load_table

    for path in tables:
        load_table(path)
    print_result({"valid": [str(path) for path in tables]}, as_json, f"{len(tables)} valid")


@table_app.command("info", epilog=example("hwnas table info table.json"))
def info(tables: Tables, as_json: Json = False) -> None:
    """Show where and how tables were measured, and how well they predict."""
    from hwnas.latency_tables.shipped import load_table

    documents = {str(path): table_facts(load_table(path)) for path in tables}
    lines = []
    for path, facts in documents.items():
        lines.append(path)
        lines += [f"  {key}: {_short(value)}" for key, value in facts.items()]
    print_result({"tables": documents}, as_json, "\n".join(lines))


@table_app.command("list", epilog=example("hwnas table list"))
def list_shipped(as_json: Json = False) -> None:
    """List the tables that ship with the package.

    Their names can be used wherever a table's file is expected.
    """
    from hwnas.latency_tables.shipped import shipped_names

    names = shipped_names()
    print_result({"tables": names}, as_json, "\n".join(names))


@table_app.command(epilog=example("hwnas table diff monday.json tuesday.json"))
def diff(tables: Tables, as_json: Json = False) -> None:
    """Compare the operators of two tables."""
    from hwnas.latency_tables.shipped import load_table

    if len(tables) != 2:
        raise InputError("wrong number of tables", expected=2, actual=len(tables))
    first, second = (load_table(path) for path in tables)
    rows = [
        {"operator": str(spec), "first_ms": a, "second_ms": b} for spec, a, b in first.diff(second)
    ]
    only = {
        "only_first": [str(s) for s in second.missing(first.specs())],
        "only_second": [str(s) for s in first.missing(second.specs())],
    }
    lines = [f"{r['operator']:<44} {r['first_ms']:>9.4f} {r['second_ms']:>9.4f}" for r in rows]
    lines += [f"{name}: {len(specs)}" for name, specs in only.items()]
    print_result({"operators": rows, **only}, as_json, "\n".join(lines))


@table_app.command(epilog=example("hwnas table merge old.json new.json --out both.json"))
def merge(tables: Tables, out: OutTable, as_json: Json = False) -> None:
    """Join tables of one device.

    Where several tables have an operator, the last one's measurement is kept.
    """
    from hwnas.latency_tables.shipped import load_table

    merged = load_table(tables[0])
    for path in tables[1:]:
        merged = merged.merge(load_table(path))
    merged.save(out)
    count = len(merged.operators)
    print_result({"table": str(out), "operators": count}, as_json, f"{out}: {count} operators")


@table_app.command(epilog=example("hwnas table design --space nasbench201 -n 10 --out design.csv"))
def design(
    out: Annotated[
        Path, typer.Option(metavar="FILE.csv", help="File to write the networks to (column arch).")
    ],
    config: ConfigArgument = None,
    space: SpaceName = None,
    settings: Set = None,
    count: Annotated[int, typer.Option("-n", min=1, max=10_000, help="Number of networks.")] = 10,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE.json",
            help="A table of the device, if there is one. Default: tables of other devices.",
        ),
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Prefer networks near this latency budget; needs --table."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the candidates that are compared.")] = 0,
    as_json: Json = False,
) -> None:
    """Propose the networks whose measurement tells most about a device."""
    from hwnas.budget.cost import CostModel
    from hwnas.budget.limit import Limit
    from hwnas.calibration.design import design as design_networks
    from hwnas.calibration.networks import write_networks
    from hwnas.latency_tables.shipped import load_table

    searched = _space(config, space, settings, table)
    limit = None
    if budget_ms is not None:
        if table is None:
            raise InputError("a budget needs a table that predicts latencies", where="--budget-ms")
        limit = Limit(CostModel(searched, load_table(table)), budget_ms)
    prior = _prior(searched, "auto" if table is None else str(table))
    networks = design_networks(searched, prior, count, seed=seed, limit=limit)
    write_networks(out, searched, networks)
    print_result(
        {"networks": len(networks), "out": str(out)}, as_json, f"{out}: {len(networks)} networks"
    )


@table_app.command(
    epilog=example(
        "hwnas table fit --space nasbench201 --measurements m.csv --device-name phone --out T.json"
    )
)
def fit(
    measurements: Measurements,
    device_name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the device that was measured.")
    ],
    out: OutTable,
    config: ConfigArgument = None,
    space: SpaceName = None,
    settings: Set = None,
    prior: Annotated[
        str,
        typer.Option(
            metavar="auto|none|TABLE.json",
            help="What is known before: auto (shipped tables of other devices), none, or a table.",
        ),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Learn a device's latency table from a few networks measured end to end."""
    from hwnas.calibration.make import fitted_table
    from hwnas.calibration.networks import read_measurements

    searched = _space(config, space, settings, prior if prior not in ("auto", "none") else None)
    known = _prior(searched, prior)
    networks, latency_ms = read_measurements(measurements, searched, known)
    base = None if prior in ("auto", "none") else prior
    table = fitted_table(searched, known, networks, latency_ms, device_name, base)
    table.save(out)
    assert table.calibration is not None
    text = (
        f"{out}: {len(networks)} networks, prior {known.name}, runs {table.calibration.edges} "
        f"edges, a network is off by {table.calibration.noise:.1%}"
    )
    print_result({"table": str(out), **table_facts(table)}, as_json, text)


@table_app.command(epilog=example("hwnas table audit table.json -k 20"))
def audit(
    table: Table,
    config: ConfigArgument = None,
    space: SpaceName = None,
    settings: Set = None,
    measurements: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Measured networks to compare with, not those that the table was fitted to. "
            "Default: measure random networks here.",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("-k", min=3, max=1000, help="Number of networks to measure.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random networks.")] = 0,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Time limit of each of the two measurements, in seconds.")
    ] = 60.0,
    device_name: OnDevice = None,
    as_json: Json = False,
) -> None:
    """Compare a table's predictions with measured networks.

    The networks must not be those that the table was fitted to. The result is stored in the table.
    """
    from hwnas.calibration.audit import audit as compare
    from hwnas.calibration.networks import read_measurements
    from hwnas.latency_tables.shipped import load_table
    from hwnas.runs import progress

    loaded = load_table(table)
    searched = _space(config, space, settings, table)
    if measurements is not None:
        networks, latency_ms = read_measurements(measurements, searched)
        found = compare(searched, loaded, networks, latency_ms)
    else:
        from hwnas.pipeline.profile import audit_here

        with interruptible():
            found = audit_here(
                searched,
                loaded,
                count,
                device_name=device_name,
                seed=seed,
                seconds=seconds,
                stage=progress.shown,
            )
    if table.exists():
        loaded.with_audit(found).save(table)
    lines = [f"{key}: {_short(value)}" for key, value in found.model_dump().items()]
    if found.loses_to_macs:
        lines.append(
            "warning: counting multiply-accumulates orders these networks better than the table"
        )
    print_result({"table": str(table), "audit": found.model_dump()}, as_json, "\n".join(lines))


@table_app.command(
    epilog=example("hwnas table convert --from proxylessnas lut.json --out pixel1.json")
)
def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A published table of another project.")
    ],
    source: Annotated[
        str, typer.Option("--from", metavar="proxylessnas|fbnet|tfnas|help", help="Its format.")
    ],
    out: OutTable,
    device: Annotated[
        str | None, typer.Option(help="The device to convert, if the file has several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a latency table that another project published."""
    from hwnas.calibration.make import converted_help
    from hwnas.latency_tables.convert import convert as read_format

    table = converted_help(file, device) if source == "help" else read_format(source, file, device)
    table.save(out)
    text = f"{out}: {len(table.operators)} operators of {table.device.device}"
    print_result({"table": str(out), **table_facts(table)}, as_json, text)


@table_app.command("import", epilog=example("hwnas table import results.json --out phone.json"))
def import_results(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The file that measure.py wrote.")
    ],
    out: OutTable,
    as_json: Json = False,
) -> None:
    """Make a table from measurements of a bundle on another device."""
    from hwnas.calibration.make import imported_table

    table = imported_table(results)
    table.save(out)
    text = f"{out}: {len(table.operators)} operators of {table.device.device}"
    print_result({"table": str(out), **table_facts(table)}, as_json, text)


@table_app.command(epilog=example("hwnas table predict --table T.json --archs a.csv --out p.csv"))
def predict(
    table: Annotated[Path, typer.Option(metavar="TABLE.json", help="Latency table of the device.")],
    archs: Annotated[Path, typer.Option(metavar="FILE.csv", help="Networks (column arch).")],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE.csv", help="File to write: columns arch, latency_ms, std_ms."),
    ],
    config: ConfigArgument = None,
    space: SpaceName = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Predict the latencies of networks from a table."""
    from hwnas.budget.cost import CostModel
    from hwnas.calibration.networks import LATENCY_MS, STD_MS, read_networks, write_networks
    from hwnas.latency_tables.shipped import load_table

    searched = _space(config, space, settings, table)
    networks = read_networks(archs, searched)
    latency_ms, std_ms = CostModel(searched, load_table(table)).predict(networks)
    columns = {LATENCY_MS: latency_ms.tolist(), STD_MS: std_ms.tolist()}
    write_networks(out, searched, networks, columns)
    print_result(
        {"networks": len(networks), "out": str(out)}, as_json, f"{out}: {len(networks)} networks"
    )


def predict_by_old_name(
    table: Annotated[Path, typer.Option(metavar="TABLE.json")],
    archs: Annotated[Path, typer.Option(metavar="FILE.csv")],
    out: Annotated[Path, typer.Option(metavar="FILE.csv")],
    config: ConfigArgument = None,
    space: SpaceName = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Predict latencies; the command is called `hwnas table predict` now."""
    print("hwnas: `hwnas predict` is now `hwnas table predict`", file=sys.stderr)
    predict(table, archs, out, config, space, settings, as_json)


def table_facts(table: LatencyTable) -> dict[str, Any]:
    """A table's device, protocol, calibration and audit, as `hwnas table info` shows them."""
    device = table.device
    facts: dict[str, Any] = {
        "device": device.device,
        "runtime": device.runtime,
        "dtype": device.dtype,
        "batch": device.batch,
        "threads": device.threads,
        "statistic": table.statistic,
        "created": table.created,
        "operators": len(table.operators),
        "not_ok": sum(row.status != "ok" for row in table.operators),
        "definitions": table.definitions,
        "sha256": table.sha256,
    }
    if table.source is not None:
        facts["source"] = table.source.model_dump()
    if table.calibration is not None:
        keys = ("space", "space_options", "edges", "fixed_ms", "noise", "networks", "prior")
        facts["calibration"] = {key: getattr(table.calibration, key) for key in keys}
    if table.audit is not None:
        facts["audit"] = table.audit.model_dump()
    return facts


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _space(
    config: str | None, space: str | None, settings: list[str] | None, table: Path | str | None
) -> SearchSpace:
    """The space of a configuration, or the one that a table is calibrated for."""
    from hwnas.cli.options import overrides_for_space
    from hwnas.latency_tables.shipped import load_table
    from hwnas.pipeline.configuration import load_config
    from hwnas.pipeline.profile import profiled_space
    from hwnas.spaces import build_space

    if config is None and not settings:
        calibration = None if table is None else load_table(table).calibration
        if calibration is not None and space in (None, calibration.space):
            return build_space(calibration.space, calibration.space_options)
        if space is not None and space != load_config(None).space.name:
            return build_space(space, {})
    return profiled_space(load_config(config, overrides_for_space(config, space, settings)))


def _prior(space: SearchSpace, name: str) -> Prior:
    """`auto`: the other devices' tables that ship, or else as for `none`."""
    from hwnas.budget.cost import is_calibrated_for
    from hwnas.calibration import prior
    from hwnas.latency_tables.shipped import calibrated_for, load_table

    if name == "none":
        return prior.from_counts(space)
    if name != "auto":
        return prior.from_table(space, load_table(name))
    tables = [
        t
        for t in calibrated_for(space.name)
        if t.calibration is not None and is_calibrated_for(space, t.calibration)
    ]
    return prior.from_devices(space, tables) if tables else prior.from_counts(space)
