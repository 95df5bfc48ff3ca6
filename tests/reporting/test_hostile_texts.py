"""Texts of others are inert: what is written with them has the structure of harmless ones."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from helpers.explained_runs import write_explained
from helpers.hostile_texts import TEXTS
from helpers.run_folders import (
    assert_sound,
    measured,
    run_with,
    variants,
    written_run,
)
from markdown_it import MarkdownIt

from hwnas.cli.terminal import print_check, print_sensitivity, print_variants
from hwnas.inference.answers import in_words
from hwnas.reporting.comparison import render_comparison
from hwnas.reporting.tensorboard import LoggedRun, write_events
from hwnas.reporting.verdict import (
    refusal_to_junit,
    refusal_to_markdown,
    to_junit,
    to_markdown,
)

# Between backticks stands code in any text.
HARMLESS = [f"{i:02d}" + re.sub("[^`]", "x", text) for i, text in enumerate(TEXTS)]
TURNING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ufeff\ufffe\uffff\U000e0000-\U000e007f]"
)


def structure(source: str) -> list[tuple[str, list[str]]]:
    """Elements of a page with the names of their attributes."""
    return [(tag, sorted(attributes)) for tag, attributes in assert_sound(source).elements]


def test_a_report_has_the_elements_of_a_harmless_one(tmp_path: Path) -> None:
    harmless, hostile = (
        write_explained(run_with(tmp_path / name, texts), texts).html()
        for name, texts in (("a", HARMLESS), ("b", TEXTS))
    )
    assert structure(hostile) == structure(harmless)
    assert not TURNING.search(hostile.replace("\n", ""))
    shown = assert_sound(hostile).text
    for text in TEXTS:
        readable = text.encode("utf-8", "replace").decode()
        assert " ".join(TURNING.sub("\ufffd", readable).split())[:20] in shown


def test_a_comparison_has_the_elements_of_a_harmless_one(tmp_path: Path) -> None:
    pages = []
    for texts in (HARMLESS, TEXTS):
        runs = [
            run_with(
                tmp_path / re.sub("[/\0]", "", text.encode("utf-8", "replace").decode()), texts
            )
            for text in texts[:3]
        ]
        pages.append(render_comparison([run.folder for run in runs], tmp_path))
    assert structure(pages[1]) == structure(pages[0])


def checked_with(texts: Sequence[str]) -> dict[str, Any]:
    """The document of a check with the texts wherever a model's maker can write some."""
    gates = [
        {"name": text, "status": status, "value": 1.0, "limit": 2.0, "bound": "max", "detail": text}
        for text in texts
        for status in ("fail", "inconclusive", "reported")
    ]
    return {
        "verdict": "fail",
        "model": {"name": texts[0]},
        "gates": gates,
        "measured": {**measured(0.5), "runtime": texts[1]},
        "warnings": list(texts),
        "notes": list(texts),
        "contradiction": texts[2],
        "batches": {"failures": list(texts)},
        "shape_latencies": [
            {"inputs": {text: [1, 2]}, "latency_ms": 1.0, "ratio": 2.0} for text in texts
        ],
        "budget_ms": 1.0,
        "predicted_ms": None,
        "percentiles": None,
        "throughput": [],
        "energy": None,
        "serving": None,
        "memory_mb": None,
    }


@pytest.mark.parametrize("write", [to_junit, lambda d: refusal_to_junit(TEXTS[0], TEXTS[1], 2)])
def test_junit_is_whole(write) -> None:
    root = ElementTree.fromstring(write(checked_with(TEXTS)).encode())
    assert {element.tag for element in root.iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "error", "system-out"
    }  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_text_in_markdown(text: str) -> None:
    """Forges make links of bare addresses, mentions and numbers, which no parser here does."""
    markdown = to_markdown(checked_with([text] * 3)) + refusal_to_markdown(text, text, 2)
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    blocks = reader.parse(markdown)
    inline = [child for block in blocks for child in block.children or []]
    assert {token.type for token in inline} <= {"text", "strong_open", "strong_close"}
    kinds = {token.type.removesuffix("_open").removesuffix("_close") for token in blocks}
    tables = {"table", "thead", "tbody", "tr", "th", "td"}
    lists = {"bullet_list", "list_item", "blockquote", "heading", "paragraph", "inline"}
    assert kinds <= tables | lists
    assert [t.tag for t in blocks if t.type == "heading_open"] == ["h2", "h2"]
    assert not re.search(r"\w://|\bwww\.|@\w|#\d|javascript:\S*\)\]", markdown)


def test_a_terminal_is_given_no_commands(capsys) -> None:
    print_check(checked_with(TEXTS), None)
    document = variants()
    for text in TEXTS:
        document["variants"]["int8"]["gates"].append({"name": text, "status": "fail"})
        document["variants"]["fp16"]["error"] = text
    document |= {"notes": TEXTS, "budget_ms": None, "runtime": TEXTS[0], "fastest": None}
    entry = {"metric": None, "budget_ms": None}
    for made in document["variants"].values():
        made |= {**entry, **made}
        made["error"] = made["error"] or TEXTS[1]
    print_variants(document)
    rows = [{"node": text, "operator": text, "sqnr_db": None, "error": text} for text in TEXTS]
    print_sensitivity(rows)
    found = [{"class": text, "probability": 0.5} for text in TEXTS]
    print(in_words({"file": TEXTS[0], "row": None, "classes": found}))
    said = capsys.readouterr().out
    assert len(said) > 5000
    assert not [c for c in said if not c.isprintable() and c != "\n"]


def test_tensorboard_is_given_printable_tags(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = written_run(tmp_path / "run", stages=("architecture",))
    records = [{"event": text, "step": 1, text: 0.5} for text in TEXTS]
    run.folder.history.write_text("\n".join(map(json.dumps, records)))
    write_events([LoggedRun(run.folder, run.space)], tmp_path / "logs")
    events = EventAccumulator(str(tmp_path / "logs" / "run")).Reload()
    tags = events.Tags()["scalars"]
    assert len(tags) == len(TEXTS)
    assert all(tag.isprintable() for tag in tags)
