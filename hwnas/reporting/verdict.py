"""The result of a check as JUnit XML for CI systems and as Markdown for pull requests."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from hwnas.errors import MAX_ERROR, MAX_LINE, printable
from hwnas.reporting.formatting import gate_value, number, verdict_text

KEY_FIGURES = (
    ("latency", "measured", "value_ms", "ms"),
    ("p50 of single calls", "percentiles", "p50_ms", "ms"),
    ("p90 of single calls", "percentiles", "p90_ms", "ms"),
    ("p99 of single calls", "percentiles", "p99_ms", "ms"),
    ("requests under load", "serving", "throughput_per_s", "per second"),
    ("energy per inference", "energy", "mj", "mJ"),
)
"""Title, path of two keys in `check.json`, and unit of the figures in the Markdown summary."""
_MARKUP = re.compile(r"[|`*<>\[\]\\&~]|(?<!\w)_|_(?!\w)")
"""What Markdown reads as markup anywhere; an underscore only outside words."""
_LEADING = re.compile(r"^(\d*)([#+=.)-])")
"""What begins a title or a list at the beginning of a line."""
_LINKED = re.compile(r"@|:(?=//)|#(?=\d)|\b(?:www|mailto|xmpp)(?=[.:])", re.IGNORECASE)
"""What forges make links of."""


def to_junit(document: dict[str, Any]) -> str:
    """The gates of a `check.json` as a JUnit test suite with one test case for each gate.

    A failed gate is a failure, an inconclusive gate an error, a skipped gate a skipped test.
    A figure that is only reported is a test that passes.
    """
    gates = document["gates"]
    counts = {
        status: str(sum(gate["status"] == status for gate in gates))
        for status in ("fail", "inconclusive", "skipped")
    }
    totals = {
        "tests": str(len(gates)),
        "failures": counts["fail"],
        "errors": counts["inconclusive"],
        "skipped": counts["skipped"],
    }
    name = f"hwnas check {printable(document['model']['name'])}"
    root = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **totals})
    _add_speed(suite, _speed_of(document))
    for gate in gates:
        case = ElementTree.SubElement(
            suite, "testcase", {"name": printable(gate["name"]), "classname": name, "time": "0"}
        )
        limit = f"{gate.get('bound') or 'limit'} {_number(gate['limit'])}"
        numbers = f"value {gate_value(gate)}, {limit}"
        message = printable(gate.get("detail") or numbers)
        if gate["status"] == "fail":
            ElementTree.SubElement(case, "failure", {"message": message, "type": "gate"})
        elif gate["status"] == "inconclusive":
            ElementTree.SubElement(case, "error", {"message": message, "type": "inconclusive"})
        elif gate["status"] == "skipped":
            ElementTree.SubElement(case, "skipped")
        elif gate["status"] == "reported" and gate.get("detail"):
            ElementTree.SubElement(case, "system-out").text = message
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _speed_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """How fast the machine was in the check; None in documents of earlier versions."""
    speed: dict[str, Any] | None = (document.get("measured") or {}).get("speed")
    return speed


def _speed_notes(speed: dict[str, Any] | None) -> list[str]:
    """The time of the speed reference and its drift in words."""
    if speed is None:
        return []
    # Not imported with the module: a file that is refused ends before NumPy is imported.
    from hwnas.budget.speed import MachineSpeed

    return [MachineSpeed.from_json(speed).in_words()]


def _add_speed(suite: ElementTree.Element, speed: dict[str, Any] | None) -> None:
    """State the time of the speed reference and its drift as properties of a test suite."""
    if speed is None:
        return
    properties = ElementTree.SubElement(suite, "properties")
    for key in ("reference", "reference_ms", "recorded_ms", "drift"):
        if speed[key] is not None:
            text = {"name": f"machine_speed.{key}", "value": printable(str(speed[key]))}
            ElementTree.SubElement(properties, "property", text)


def to_markdown(document: dict[str, Any]) -> str:
    """A `check.json` as a summary for a pull request.

    It has the verdict, warnings, gates, key figures and notes.
    """
    warnings = document.get("warnings", [])
    lines = [f"## {_model(document)}: {verdict_text(document)}", ""]
    for warning in warnings:
        lines += [f"> **Warning:** {_cell(warning)}", ""]
    lines += ["| gate | status | value | limit |", "|---|---|---|---|"]
    for gate in document["gates"]:
        status = gate["status"]
        status = f"**{status}**" if status in ("fail", "inconclusive") else status
        limit = f"{gate.get('bound') or ''} {_number(gate['limit'])}".strip()
        values = f"{gate_value(gate)} | {limit}"
        lines.append(f"| {_cell(gate['name'])} | {status} | {values} |")
    details = [
        (gate["name"], gate["detail"])
        for gate in document["gates"]
        if gate.get("detail") and gate["detail"] not in warnings
    ]
    lines += [""] if details else []
    lines += [f"- {_cell(name)}: {_cell(detail)}" for name, detail in details]
    lines += ["", "| figure | value |", "|---|---|"]
    for title, part, key, unit in KEY_FIGURES:
        value = (document.get(part) or {}).get(key)
        if value is not None:
            lines.append(f"| {title} | {_number(value)} {unit} |")
    for row in document.get("throughput", []):
        lines.append(
            f"| batch size {row['batch']} | {_number(row['per_second'])} samples per second |"
        )
    if document["memory_mb"] is not None:
        lines.append(f"| peak memory of a session | {_number(document['memory_mb'])} MB |")
    notes = [*_speed_notes(_speed_of(document)), *document.get("notes", [])]
    lines += [""] if notes else []
    lines += [f"- {_cell(note)}" for note in notes]
    return "\n".join(lines) + "\n"


def refusal_to_junit(model: str, line: str, exit_code: int) -> str:
    """A JUnit test suite with one error that states why a model could not be checked.

    Args:
        model: name of the model.
        line: the error message.
        exit_code: 2 for a refused model, 3 for an inconclusive check, 4 for an unforeseen error.
    """
    name = f"hwnas check {printable(model)}"
    totals = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0"}
    root = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **totals})
    case = ElementTree.SubElement(
        suite, "testcase", {"name": "check", "classname": name, "time": "0"}
    )
    error = {"message": printable(line, MAX_ERROR), "type": ending_of(exit_code)}
    ElementTree.SubElement(case, "error", error)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def refusal_to_markdown(model: str, line: str, exit_code: int) -> str:
    """A summary for a pull request that states why a model could not be checked.

    Args:
        model: name of the model.
        line: the error message.
        exit_code: 2 for a refused model, 3 for an inconclusive check, 4 for an unforeseen error.
    """
    return f"## {_cell(model)}: {ending_of(exit_code)}\n\n{_cell(line, MAX_ERROR)}\n"


def ending_of(exit_code: int) -> str:
    """How a check ended that gave no verdict: `refused`, `inconclusive` or `error`."""
    return {2: "refused", 4: "error"}.get(exit_code, "inconclusive")


def _model(document: dict[str, Any]) -> str:
    return _cell(document["model"]["name"])


def _cell(text: str, longest: int = MAX_LINE) -> str:
    """Text that Markdown shows as it is, in a cell, a list or a paragraph.

    Besides Markdown's own characters, a zero-width space takes their meaning from mentions of
    people, references to issues and addresses, which forges link even where they are escaped.
    """
    escaped = _MARKUP.sub(r"\\\g<0>", printable(text, longest))
    return _LINKED.sub("\\g<0>\u200b", _LEADING.sub(r"\1\\\2", escaped))


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
