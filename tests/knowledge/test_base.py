"""The database: one record for each search, by many writers, in every version of the schema."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny import tiny_space

from hwnas.errors import InputError
from hwnas.knowledge import base as base_module
from hwnas.knowledge.base import MIGRATIONS, KnowledgeBase
from hwnas.knowledge.embedding import LENGTH
from hwnas.knowledge.records import RememberedSearch, choices_of, scored_of

SPACE = tiny_space("nasbench201")


def search(number: int = 0, **changes) -> RememberedSearch:
    architecture = SPACE.architecture([number % 5, 1, 2, 3, 4, 0])
    record = {
        "created": "2026-11-29",
        "space": SPACE.name,
        "choices": choices_of(SPACE),
        "task": "image-classification",
        "embedding": (0.5,) * LENGTH,
        "device": "a processor",
        "runtime": "onnxruntime-cpu",
        "coefficients_ms": (0.1, 0.2),
        "budget_ms": 1.5,
        "evaluator": "training",
        "evaluations": tuple(scored_of([(architecture, 0.25 + number / 100)])),
    }
    return RememberedSearch(**record | changes)


def test_what_was_added_is_read_in_order(tmp_path) -> None:
    base = KnowledgeBase(tmp_path / "base.db")
    added = [search(n) for n in range(3)]
    assert [base.add(one) for one in added] == [True] * 3
    assert KnowledgeBase(tmp_path / "base.db").searches() == added
    assert added[1].scored(SPACE) == [(SPACE.architecture([1, 1, 2, 3, 4, 0]), 0.26)]


def test_the_same_search_is_added_once_whatever_the_date(tmp_path) -> None:
    base = KnowledgeBase(tmp_path / "base.db")
    assert base.add(search())
    assert not base.add(search(created="2027-01-01"))
    assert len(base.searches()) == 1


def test_searches_of_other_spaces_and_choices_are_left_out(tmp_path) -> None:
    base = KnowledgeBase(tmp_path / "base.db")
    base.add(search())
    base.add(search(choices={"0>1": ("none", "other")}))
    base.add(search(space="darts"))
    assert base.searches(SPACE) == [search()]
    assert len(base.searches()) == 3


def test_lines_of_json_carry_a_base_to_another(tmp_path) -> None:
    first, second = (KnowledgeBase(tmp_path / name) for name in ("one.db", "two.db"))
    first.add_all([search(n) for n in range(3)])
    second.add(search(1))
    lines = tmp_path / "all.jsonl"
    assert first.write_lines(lines) == 3
    assert json.loads(lines.read_text().splitlines()[0])["device"] == "a processor"
    assert second.read_lines(lines) == 2
    assert {one.digest for one in second.searches()} == {one.digest for one in first.searches()}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d | {"budget_ms": "NaN"}, "line 2.*budget_ms"),
        (lambda d: d | {"more": 1}, "line 2.*more"),
        (lambda d: {k: v for k, v in d.items() if k != "task"}, "line 2.*task"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_added(tmp_path, change, message) -> None:
    good = json.loads(search().model_dump_json())
    lines = tmp_path / "all.jsonl"
    lines.write_text("".join(json.dumps(d) + "\n" for d in (good, change(good))))
    base = KnowledgeBase(tmp_path / "base.db")
    with pytest.raises(InputError, match=message):
        base.read_lines(lines)
    assert not base.searches()


@pytest.mark.slow
def test_processes_write_at_once(tmp_path) -> None:
    """Each adds its own searches and one that is common to all, to a base that nobody made."""
    code = (
        "from test_base import KnowledgeBase, search\n"
        "base = KnowledgeBase(sys.argv[1])\n"
        "for n in range(10): base.add(search(1000 * int(sys.argv[2]) + n)); base.add(search())\n"
    )
    here = Path(__file__).parent
    code = f"import sys; sys.path += [{str(here)!r}, {str(here.parent)!r}]\n" + code
    line = [sys.executable, "-c", code, str(tmp_path / "base.db")]
    running = [subprocess.Popen([*line, str(n)]) for n in (1, 2)]
    assert [process.wait(timeout=100) for process in running] == [0, 0]
    assert len(KnowledgeBase(tmp_path / "base.db").searches()) == 21


def test_an_older_base_is_migrated_and_keeps_its_searches(tmp_path, monkeypatch) -> None:
    path = tmp_path / "base.db"
    KnowledgeBase(path).add(search())

    def add_note(operations) -> None:
        from sqlalchemy import Column, Text

        operations.add_column("searches", Column("note", Text))

    monkeypatch.setattr(base_module, "MIGRATIONS", (*MIGRATIONS, add_note))
    assert KnowledgeBase(path).searches() == [search()]
    with sqlite3.connect(path) as file:
        columns = [row[1] for row in file.execute("PRAGMA table_info(searches)")]
        versions = [row[0] for row in file.execute("SELECT version FROM knowledge_schema")]
    assert "note" in columns
    assert versions == [1, 2]
    monkeypatch.undo()
    with pytest.raises(InputError, match="newer version"):
        KnowledgeBase(path)


def test_what_is_no_base_is_refused_and_left_alone(tmp_path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 100)
    with pytest.raises(InputError, match="cannot be used"):
        KnowledgeBase(path)
    assert path.read_text() == "no database " * 100
    with pytest.raises(InputError, match="no such folder"):
        KnowledgeBase(tmp_path / "absent" / "base.db")
    with pytest.raises(InputError, match="no such knowledge base"):
        KnowledgeBase.existing(tmp_path / "absent.db")
    with pytest.raises(InputError, match="cannot be used"):
        KnowledgeBase("nosuchdatabase://host/name")
