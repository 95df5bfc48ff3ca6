"""Runs that are remembered, and runs that begin from what is remembered."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.runs import settings, table_file

import hwnas
from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.knowledge.base import KnowledgeBase
from hwnas.runs.run_folder import RunFolder

EVALUATED = [
    "search.evaluator='zero-cost'",
    "search.strategy='evolution'",
    "search.zero_cost='parameters'",
    "search.steps=30",
]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run with a knowledge base, and a search that begins from it."""
    folder = tmp_path_factory.mktemp("knowledge")
    table = table_file("nasbench201", folder)
    more = [*EVALUATED, f"knowledge='{folder}/base.db'"]
    config = load_config(None, settings("nasbench201", *more))
    hwnas.run(config, folder / "first", table=table, show_progress=False)
    seeded = load_config(None, settings("nasbench201", *more, "seed=1"))
    hwnas.search(seeded, folder / "second", table=table, show_progress=False)
    return folder


def losses(folder) -> list[float]:
    return [r["loss"] for r in RunFolder(folder).read_history() if r["event"] == "search"]


@pytest.mark.slow
def test_a_run_with_a_base_is_remembered_with_every_score(searched) -> None:
    (found,) = KnowledgeBase(searched / "base.db").searches()
    *scored, trained = found.evaluations
    assert [one.score for one in scored] == [-loss for loss in losses(searched / "first")]
    metrics = json.loads((searched / "first" / "metrics.json").read_text())
    assert trained.trained
    assert trained.score == metrics[metrics["metric"]]


@pytest.mark.slow
def test_a_later_search_begins_with_the_best_that_is_known(searched) -> None:
    assert len((searched / "second" / "knowledge.jsonl").read_text().splitlines()) == 1
    assert min(losses(searched / "second")[:3]) <= min(losses(searched / "first"))


def test_a_run_is_remembered_once_without_its_data(cli, finished, tmp_path) -> None:
    """The candidates of a supernet and the trained network have scores."""
    base = str(tmp_path / "base.db")
    for is_new in (True, False):
        code, out, _ = cli("remember", str(finished), "--knowledge", base, "--json")
        assert code == 0
        assert json.loads(out)["runs"][0]["new"] is is_new
    (found,) = KnowledgeBase(base).searches()
    assert [one.trained for one in found.evaluations][-2:] == [False, True]
    text = found.model_dump_json().lower()
    assert "ankle" not in text
    assert str(finished) not in text
    code, out, _ = cli("knowledge", "list", base, "--json")
    (row,) = json.loads(out)["searches"]
    assert row["space"] == "nasbench201"
    assert row["evaluations"] == len(found.evaluations)
    lines = str(tmp_path / "all.jsonl")
    assert cli("knowledge", "export", base, lines)[0] == 0
    assert cli("knowledge", "import", str(tmp_path / "other.db"), lines)[0] == 0
    assert KnowledgeBase(tmp_path / "other.db").searches() == [found]


def test_a_run_without_an_architecture_is_refused(cli, finished, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "config.toml", tmp_path / "run")
    code, _, err = cli("remember", str(tmp_path / "run"), "--knowledge", str(tmp_path / "b.db"))
    assert code == 2
    assert "no such file" in err
    assert not (tmp_path / "b.db").exists()


def test_a_base_that_cannot_be_opened_is_refused_before_anything_is_done(tmp_path) -> None:
    missing = f"knowledge='{tmp_path}/absent/base.db'"
    config = load_config(None, settings("nasbench201", *EVALUATED, missing))
    table = table_file("nasbench201", tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        hwnas.search(config, tmp_path / "run", table=table, show_progress=False)
    assert not (tmp_path / "run").exists()
