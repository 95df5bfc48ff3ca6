"""Results as tables and trees on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from hwnas.errors import printable
from hwnas.reporting.cells import SKIP, Cell
from hwnas.reporting.formatting import in_words

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
        metric = member["metric"]
        console.print(
            f"budget {member['budget_ms']:.4g} ms: {member['latency_ms']:.4g} ms, "
            f"{in_words(metric)} {member[metric]['onnx']:.2%}, "
            f"[{STYLES[verdict]}]{verdict}[/]"
        )
    if folder is not None and (folder / "report.html").exists():
        console.print(f"report: {folder / 'report.html'}")
    verdict = document["verdict"]
    console.print(f"verdict: [{STYLES[verdict]} bold]{verdict}[/]")


def print_variants(document: dict[str, Any]) -> None:
    """Print the variants of a `variants.json` and the fastest that passes on stdout."""
    console = Console()
    table = Table("variant", "MB", "SQNR dB", "score", "ms", box=None, padding=(0, 1, 0, 0))
    table.add_column("of fp32's time", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    lines = []
    for name, entry in document["variants"].items():
        if entry["error"] is not None:
            lines.append(f"{name}: {entry['error']}")
            continue
        ratio, verdict = entry["ratio"], entry["verdict"]
        table.add_row(
            name,
            f"{entry['size_bytes'] / 1e6:.2f}",
            _number(entry["parity"]["sqnr_db"]),
            f"{entry[entry['metric']]['onnx']:.2%}",
            _number(entry["measured"]["value_ms"]),
            f"{ratio['value']:.3f} ({ratio['ci_low']:.3f}-{ratio['ci_high']:.3f})",
            f"[{STYLES[verdict]}]{verdict}[/]",
        )
        failed = [gate["name"] for gate in entry["gates"] if gate["status"] == "fail"]
        if failed:
            lines.append(f"{name} fails {', '.join(failed)}")
    console.print(table)
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print(
        f"budget {_number(document['budget_ms'])} ms on {document['runtime']}; "
        f"fastest that passes: [bold]{document['fastest'] or 'none'}[/]"
    )


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
    if document["energy"] is not None:
        lines.append(f"energy of an inference: {_number(document['energy']['mj'])} mJ")
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


def print_architecture(document: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Print what `describe_architecture` says, with a drawing of the cells, on stdout."""
    console = Console(highlight=False, markup=False)
    # What lists of tables led to is told by the choices below.
    stated = ", ".join(
        f"{key} {value}"
        for key, value in document["space_options"].items()
        if value is not None and not (isinstance(value, list) and dict in map(type, value))
    )
    console.print(f"{document['space']}: {stated}")
    console.print(
        f"{document['params']:,} parameters, {document['macs']:,} multiply-accumulates, "
        f"{document['depth']} layers deep"
    )
    for cell in cells:
        console.print(_layers(cell) if cell.is_stage else _tree(cell))
    table = Table("choice", "option")
    for header in ("parameters", "multiply-accumulates"):
        table.add_column(header, justify="right")
    for row in document["choices"]:
        if row["option"] != "none":
            option = Text(row["option"], "" if row["runs"] else "dim")
            table.add_row(row["choice"], option, f"{row['params']:,}", f"{row['macs']:,}")
    fixed = document["fixed"]
    table.add_row("what is fixed", "", f"{fixed['params']:,}", f"{fixed['macs']:,}")
    console.print(table)
    console.print(f"genotype: {json.dumps(document['genotype'])}", soft_wrap=True)


def _layers(cell: Cell) -> Text:
    """A stage as a row of its layers, dim where they do not run; dashes stand for those skipped.

    Sizes are listed.
    """
    names = [
        Text("-" if edge.operator == SKIP else edge.operator, "" if edge.runs else "dim")
        for edge in cell.edges
    ]
    return Text(f"{cell.title}: ") + Text(", " if cell.is_list else " > ").join(names)


def _tree(cell: Cell) -> Tree:
    """A cell as its nodes, each with the edges that enter it."""
    tree = Tree(Text(cell.title))
    for number in range(cell.inputs, cell.nodes):
        node = tree.add(Text(cell.node_name(number)))
        for edge in cell.edges:
            if edge.target == number:
                words = f"{edge.operator} of {cell.node_name(edge.source)} {edge.cost}".rstrip()
                node.add(Text(words, "" if edge.runs else "dim"))
    if cell.joins_nodes:
        tree.add(Text(cell.output))
    return tree
