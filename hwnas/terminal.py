"""The check's result as a table on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwnas.errors import printable

STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow", "skipped": "dim"}


def print_check(document: dict[str, Any], folder: Path | None) -> None:
    """Print gates, latency and verdict of a `check.json` on stdout."""
    console = Console()
    table = Table("gate", "status", "value", "limit")
    for gate in document["gates"]:
        status = f"[{STYLES[gate['status']]}]{gate['status']}[/]"
        table.add_row(_plain(gate["name"]), status, _number(gate["value"]), _number(gate["limit"]))
    console.print(table)
    measured = document["measured"]
    console.print(
        f"latency {measured['value_ms']:.4g} ms "
        f"({measured['statistic']}, 95 % interval {measured['ci_low_ms']:.4g} to "
        f"{measured['ci_high_ms']:.4g}, p90 {measured['p90_ms']:.4g}), "
        f"predicted {_number(document['predicted_ms'])} ms, "
        f"budget {_number(document['budget_ms'])} ms on {_plain(measured['runtime'])}"
    )
    for line in _more_figures(document):
        console.print(printable(line), highlight=False, markup=False)
    for member in document.get("family", []):
        verdict = member["verdict"]
        console.print(
            f"budget {member['budget_ms']:.4g} ms: {member['latency_ms']:.4g} ms, accuracy "
            f"{member['accuracy']['onnx']:.2%}, [{STYLES[verdict]}]{verdict}[/]"
        )
    if folder is not None and (folder / "report.html").exists():
        console.print(f"report: {folder / 'report.html'}")
    verdict = document["verdict"]
    console.print(f"verdict: [{STYLES[verdict]} bold]{verdict}[/]")


def _more_figures(document: dict[str, Any]) -> list[str]:
    """Single calls, batches, load and notes, a line each."""
    lines = []
    calls, serving = document["percentiles"], document["serving"]
    if calls is not None:
        figures = (f"{name[:3]} {_number(calls[name])}" for name in ("p50_ms", "p90_ms", "p99_ms"))
        lines.append(f"single calls in ms: {', '.join(figures)} ({calls['samples']} calls)")
    if document["throughput"]:
        rows = (f"{_number(r['per_second'])} at {r['batch']}" for r in document["throughput"])
        lines.append(f"samples a second by batch: {', '.join(rows)}")
    if serving is not None:
        lines.append(
            f"{serving['threads']} threads: {_number(serving['throughput_per_s'])} requests a "
            f"second, p99 {_number(serving['latency'].get('p99_ms'))} ms, memory "
            f"{_number(serving['growth_mb'])} MB more"
        )
    failures = document["batches"]["failures"]
    contradiction = [document["contradiction"]] if document["contradiction"] else []
    return [*lines, *contradiction, *failures, *document["notes"]]


def _plain(text: str) -> str:
    """A text from a file, without control characters and read as no markup."""
    return escape(printable(text))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
