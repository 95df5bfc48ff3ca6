"""Results as tables and trees on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hwnas.errors import printable
from hwnas.reporting.formatting import gate_value, in_words, number, verdict_text

OPTIONS_WIDTH, MOST_GROUPS = 160, 4
"""Characters of a list of options, and lists of them for one search space."""
STYLES = {
    "pass": "green",
    "fail": "red",
    "inconclusive": "yellow",
    "reported": "cyan",
    "skipped": "dim",
}


def print_check(document: dict[str, Any], result: Path | None) -> None:
    """Print gates, latency and verdict of a `check.json` on stdout.

    Args:
        document: the content of the file.
        result: the page or document that the result can be read in, if one was written.
    """
    from hwnas.budget.speed import MachineSpeed

    console = Console()
    table = Table("gate", "status", "value", "limit")
    for gate in document["gates"]:
        status = f"[{STYLES[gate['status']]}]{gate['status']}[/]"
        table.add_row(_plain(gate["name"]), status, gate_value(gate), _limit(gate))
    console.print(table)
    measured = document["measured"]
    console.print(
        f"latency {measured['value_ms']:.4g} ms "
        f"({measured['statistic']}, 95 % interval {measured['ci_low_ms']:.4g} to "
        f"{measured['ci_high_ms']:.4g}, p90 {measured['p90_ms']:.4g}), "
        f"predicted {_number(document['predicted_ms'])} ms, "
        f"budget {_number(document['budget_ms'])} ms on {_plain(measured['runtime'])}"
    )
    if measured.get("speed") is not None:
        speed = MachineSpeed.from_json(measured["speed"])
        console.print(speed.in_words(), highlight=False, markup=False, soft_wrap=True)
    for line in _more_figures(document):
        console.print(printable(line), highlight=False, markup=False)
    for warning in document.get("warnings", []):
        console.print(Text(f"warning: {printable(warning)}", "bold yellow"), soft_wrap=True)
    for member in document.get("family", []):
        verdict = member["verdict"]
        metric = member["metric"]
        console.print(
            f"budget {member['budget_ms']:.4g} ms: {member['latency_ms']:.4g} ms, "
            f"{in_words(metric)} {member[metric]['onnx']:.2%}, "
            f"[{STYLES[verdict]}]{verdict}[/]"
        )
    if document.get("controls"):
        from hwnas.reporting.controls import comparison_in_words

        sentence = comparison_in_words(document["controls"])
        console.print(printable(sentence), highlight=False, markup=False, soft_wrap=True)
    verdict = document["verdict"]
    console.print(f"verdict: [{STYLES[verdict]} bold]{_plain(verdict_text(document))}[/]")
    console.print(_in_short(document, result), highlight=False, markup=False, soft_wrap=True)


def _in_short(document: dict[str, Any], result: Path | None) -> str:
    """What a check found, in one sentence."""
    measured, metric = document["measured"], document.get("metric")
    parts = []
    if metric is not None and document.get(metric):
        parts.append(f"{in_words(metric)} {document[metric]['onnx']:.1%}")
    parts.append(f"{_number(measured['value_ms'])} ms on {_plain(measured['runtime'])}")
    if document["budget_ms"] is not None:
        parts.append(f"budget {_number(document['budget_ms'])} ms")
    return ", ".join(parts) + (f": {result}" if result else "")


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
            _number((entry["parity"] or {}).get("sqnr_db")),
            "-" if entry["metric"] is None else f"{entry[entry['metric']]['onnx']:.2%}",
            _number(entry["measured"]["value_ms"]),
            f"{ratio['value']:.3f} ({ratio['ci_low']:.3f}-{ratio['ci_high']:.3f})",
            f"[{STYLES[verdict]}]{verdict}[/]",
        )
        for status, verb in (("fail", "fails"), ("inconclusive", "leaves undecided")):
            gates = [gate["name"] for gate in entry["gates"] if gate["status"] == status]
            if gates:
                lines.append(f"{name} {verb} {', '.join(gates)}")
    console.print(table)
    for line in [*lines, *document.get("notes", [])]:
        console.print(printable(line), highlight=False, markup=False)
    console.print(
        f"budget {_number(document['budget_ms'])} ms on {_plain(document['runtime'])}; "
        f"fastest that passes: [bold]{document['fastest'] or 'none'}[/]"
    )


def print_sensitivity(entries: Sequence[dict[str, Any]]) -> None:
    """Print what each operator loses when it alone is quantised, the most sensitive one first."""
    if not entries:
        return
    table = Table("node", "operator", "SQNR dB alone", box=None, padding=(0, 1, 0, 0))
    for entry in entries:
        alone = _number(entry["sqnr_db"]) if entry["error"] is None else printable(entry["error"])
        table.add_row(_plain(entry["node"]), _plain(entry["operator"]), escape(alone))
    Console().print(table)


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
    for row in document.get("shape_latencies", []):
        shapes = ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in row["inputs"].items())
        lines.append(
            f"at {shapes}: {_number(row['latency_ms'])} ms, {_number(row['ratio'])} of the first"
        )
    if cold := document.get("cold_start"):
        lines.append(
            f"cold start: {_number(cold['load_ms'])} ms to load, {_number(cold['first_ms'])} ms "
            f"for the first inference, {_number(cold['size_bytes'] / 1e6)} MB on disk"
        )
    failures = document["batches"]["failures"]
    contradiction = [document["contradiction"]] if document["contradiction"] else []
    return [*lines, *contradiction, *failures, *document["notes"]]


def _plain(text: str) -> str:
    """A text from a file, without control characters and read as no markup."""
    return escape(printable(text))


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)


def _limit(gate: dict[str, Any]) -> str:
    """The limit of a gate and its direction, as in `max 0.163`."""
    return f"{gate.get('bound') or ''} {_number(gate['limit'])}".strip()


def print_environment(document: dict[str, Any]) -> None:
    """Print what `hwnas info` says of this machine on stdout."""
    console = Console(highlight=False, markup=False)
    versions = ", ".join(f"{name} {version}" for name, version in document["packages"].items())
    facts = {
        "machine": f"{document['platform']}, {document['cores']} cores",
        "versions": f"Python {document['python']}, {versions}",
        "search spaces": ", ".join(document["spaces"]),
        "strategies": ", ".join(document["strategies"]),
        "configurations": ", ".join(document["configs"]),
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)
    console.print()
    runtimes = Table("runtime", "on this machine", box=None, padding=(0, 2, 0, 0))
    for name, state in document["runtimes"].items():
        cause = state.removeprefix(f"{name}: ").split(";")[0].split(", expected")[0]
        runtimes.add_row(name, Text(cause, "green" if state == "available" else "dim"))
    console.print(runtimes)


def print_spaces(spaces: dict[str, dict[str, Any]]) -> None:
    """Print search spaces, as `describe_space` states them, on stdout."""
    console = Console(highlight=False, markup=False)
    for name, facts in spaces.items():
        sizes = facts["space_options"]
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
        table.add_row("paper", printable(facts["paper"]))
        table.add_row("size", f"{_count(facts['size'])} architectures, {facts['choices']} choices")
        for name_or_count, options in _choices(facts):
            table.add_row(name_or_count, options)
        kinds = "images or tokens" if facts["reads_tokens"] else "images"
        table.add_row("reads", f"{kinds}; ends with the head {', '.join(facts['heads'])}")
        table.add_row("sizes", f"for {_inputs(sizes)} and {sizes['classes']} outputs:")
        table.add_row("", f"{_range(facts['params'])} parameters")
        table.add_row("", f"{_range(facts['macs'])} multiply-accumulates")
        console.print(Text(printable(name), "bold"))
        console.print(table)


def print_strategies(strategies: dict[str, dict[str, Any]]) -> None:
    """Print search strategies, as the catalogue states them, on stdout."""
    console = Console(highlight=False, markup=False)
    table = Table("strategy", "needs, settings and paper", box=None, padding=(0, 2, 0, 0))
    for name, facts in strategies.items():
        settings = ", ".join(f"{key} = {value}" for key, value in facts["settings"].items())
        lines = [f"needs {facts['needs']}", settings, facts["paper"]]
        table.add_row(Text(name, "bold"), "\n".join(line for line in lines if line))
    console.print(table)


def _choices(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The options of each choice if their names are known, else of each group of equal ones."""
    if "choice_options" in facts:
        for name, options in facts["choice_options"].items():
            yield f"{printable(name)}:", printable(", ".join(options))
        return
    for group in facts["choice_groups"][:MOST_GROUPS]:
        yield f"{group['choices']} x", _shortened(group["options"])
    left = sum(group["choices"] for group in facts["choice_groups"][MOST_GROUPS:])
    if left:
        yield "", f"and {left} other choices"


def _shortened(options: Sequence[str]) -> str:
    """A list of options, cut where it is long."""
    return printable(", ".join(options), OPTIONS_WIDTH)


def _inputs(sizes: dict[str, Any]) -> str:
    """The inputs of a network of the given sizes, in words."""
    if sizes["vocabulary"] is not None:
        return f"{sizes['width']} tokens of {sizes['vocabulary']:,}"
    return f"inputs of {sizes['input_channels']} x {sizes['height']} x {sizes['width']}"


def _count(number: int) -> str:
    """A number of architectures: exact where it can be read, else a power of ten."""
    if number < 10**9:
        return f"{number:,}"
    return f"10^{math.log10(number):.1f}"


def _range(bounds: Sequence[int]) -> str:
    return " to ".join(f"{bound / 1e6:.4g}" for bound in bounds) + " M"
