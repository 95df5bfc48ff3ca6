"""The verb that shows a running search: `hwnas watch`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hwnas.cli.options import Json, RunArgument

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwnas.reporting.watching import Snapshot


def watch(
    folder: RunArgument,
    every: Annotated[
        float, typer.Option("--every", min=0.2, help="Seconds between two looks at the run.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once, as is done where there is no terminal.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a running search from another process.

    Stage, time left, entropy, expected latency against the budget, best candidate so far, memory,
    and the course of the curves. It ends with the run, and shows a stopped run's history as well.
    """
    from rich.console import Console
    from rich.live import Live

    from hwnas.reporting.watching import snapshot
    from hwnas.runs.run_folder import RunFolder

    run = RunFolder(folder)
    seen = snapshot(run)
    if as_json:
        print(json.dumps(asdict(seen), allow_nan=False))
    elif once or not sys.stdout.isatty():
        Console(highlight=False, markup=False).print(_drawing(seen))
    else:
        with Live(_drawing(seen), auto_refresh=False) as live:
            while seen.state == "running":
                time.sleep(every)
                seen = snapshot(run)
                live.update(_drawing(seen), refresh=True)


def _drawing(seen: Snapshot) -> RenderableType:
    """The facts, and the curves below them."""
    from rich.console import Group
    from rich.table import Table

    from hwnas.errors import printable

    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in seen.facts:
        facts.add_row(printable(name), printable(value))
    curves = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, course, last in seen.courses:
        curves.add_row(printable(name), course, last)
    return Group(facts, curves)
