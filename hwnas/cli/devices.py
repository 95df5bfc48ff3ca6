"""The verbs of `hwnas devices`: the devices of devices.toml are listed, probed, added, cleaned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.options import Json, example, interruptible, print_result

if TYPE_CHECKING:
    from hwnas.latency_tables.remote.inventory import Device
    from hwnas.latency_tables.remote.probe import Probe

devices_app = typer.Typer(
    rich_markup_mode=None, help="Devices that are elsewhere and have a name in devices.toml."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of devices.toml.")]
PROBLEM = 3


@devices_app.command("list", epilog=example("hwnas devices list"))
def list_devices(as_json: Json = False) -> None:
    """List the devices and how they are reached; none is connected to."""
    from hwnas.latency_tables.remote.inventory import inventory_files, read_inventory

    devices = read_inventory()
    files = ", ".join(str(path) for path in inventory_files())
    lines = [f"{name:<16} {_in_words(device)}" for name, device in devices.items()]
    document = {name: device.model_dump(exclude_none=True) for name, device in devices.items()}
    text = "\n".join(lines) or f"no devices; `hwnas devices add` names one, in {files}"
    print_result({"devices": document}, as_json, text)


@devices_app.command(epilog=example("hwnas devices probe pi"))
def probe(name: Name, as_json: Json = False) -> None:
    """Log in to a device; say what it is, how steadily it measures and what is missing.

    The exit code is 3 when it cannot measure.
    """
    from hwnas.latency_tables.remote.inventory import find_device
    from hwnas.latency_tables.remote.probe import probe as probe_device

    with interruptible():
        found = probe_device(find_device(name))
    print_result(found.to_json(), as_json, "\n".join(_lines(found)))
    if not found.can_measure:
        raise typer.Exit(PROBLEM)


@devices_app.command(epilog=example("hwnas devices add pi --host raspberrypi.local --user pi"))
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the new device.")],
    host: Annotated[
        str | None,
        typer.Option(help="Host name, address, or an alias of your SSH configuration."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="User there. Default: as for ssh.")] = None,
    port: Annotated[int | None, typer.Option(help="Port there. Default: as for ssh.")] = None,
    serial: Annotated[
        str | None,
        typer.Option(help="In place of a host: an Android device, as `adb devices` lists it."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="In place of a host: Chromium on this machine.")
    ] = False,
    python: Annotated[
        str | None, typer.Option(help="The Python there, as ~/venv/bin/python. Default: python3.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Runtime there. Default: onnxruntime-cpu.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime. Default: 1.")] = None,
    workdir: Annotated[
        str | None, typer.Option(help="Folder for models there. Default: ~/.cache/hwnas.")
    ] = None,
    project: Annotated[
        bool,
        typer.Option("--project", help="Name it in this folder's devices.toml, not in your own."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Add a device to devices.toml; it is not connected to.

    The file is yours, ~/.config/hwnas/devices.toml, or with --project that of this folder.
    """
    from hwnas.latency_tables.remote.inventory import add_device, inventory_files

    stated: dict[str, Any] = {
        "transport": "browser" if browser else None if serial is None else "adb",
        "serial": serial,
        "host": host,
        "user": user,
        "port": port,
        "python": python,
        "runtime": runtime or ("onnxruntime-web" if browser else None),
        "threads": threads,
        "workdir": workdir,
    }
    own, of_project = inventory_files()
    path = of_project if project else own
    settings = {key: value for key, value in stated.items() if value is not None}
    device = add_device(path, name, settings)
    text = f"{path}: {name} added; `hwnas devices probe {name}` logs in"
    print_result({"file": str(path), name: device.model_dump(exclude_none=True)}, as_json, text)


@devices_app.command(epilog=example("hwnas devices clean pi"))
def clean(name: Name, as_json: Json = False) -> None:
    """Remove from a device what was kept there: models and their inputs."""
    from hwnas.latency_tables.remote.connection import Connection
    from hwnas.latency_tables.remote.inventory import find_device

    with interruptible():
        connection = Connection(find_device(name))
        try:
            removed = connection.ask("clean")
            workdir = connection.facts.workdir
        finally:
            connection.close()
    text = f"{name}: {removed['files']} files removed, {removed['bytes'] / 1e6:.1f} MB"
    print_result({"device": name, "workdir": str(Path(workdir)), **removed}, as_json, text)


def _in_words(device: Device) -> str:
    """How a device is reached and what runs there, in one line."""
    if device.members:
        return f"the pool of {', '.join(device.members)}"
    if device.transport == "browser":
        where = "a page in Chromium here"
    elif device.transport == "adb":
        where = f"Android device {device.serial}"
    else:
        user = "" if device.user is None else f"{device.user}@"
        where = f"{user}{device.host}" + ("" if device.port is None else f":{device.port}")
    return f"{where}, {device.runtime}, threads {device.threads}"


def _lines(found: Probe) -> list[str]:
    """What a probe found, as text."""
    facts, steady = found.facts, found.steadiness
    clock = ", ".join(facts.governors) or "no governor that can be read"
    speeds = ", ".join(f"{mhz} MHz" for mhz in facts.clock_mhz if mhz)
    heat = None if facts.temperature_c is None else f"{facts.temperature_c:.0f} degrees Celsius"
    lines = [
        f"{found.name}: {facts.device}, {facts.architecture}, {facts.cores} cores, {facts.system}",
        f"  memory: {_mb(facts.memory_mb)}, {_mb(facts.free_memory_mb)} free",
        f"  disk: {_mb(facts.free_disk_mb)} free, work folder {facts.workdir}",
        "  versions: " + ", ".join(f"{key} {value}" for key, value in facts.versions.items()),
        f"  execution providers: {', '.join(facts.providers) or 'none'}",
        "  clock: " + ", ".join(part for part in (clock, speeds, heat) if part),
    ]
    if steady is not None:
        times = ", ".join(f"{ms:.4g}" for ms in steady.sessions_ms)
        lines.append(f"  speed reference: {times} ms, sessions differ by {steady.spread:.1%}")
    lines += [f"  problem: {problem}" for problem in found.problems]
    return lines


def _mb(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f} MB"
