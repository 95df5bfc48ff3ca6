"""The explanation of a finished run, from its files to its document and the report."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from hwnas.cli.app import main
from hwnas.errors import InputError
from hwnas.pipeline import explain as stage
from hwnas.pipeline.explain import explain
from hwnas.pipeline.report import report
from hwnas.pipeline.run import Run
from hwnas.runs import interruption

CHAPTERS = ("Why this network?", "How far can it be trusted?")


@pytest.fixture(scope="module")
def explained(finished, tmp_path_factory) -> Path:
    """A copy of the run that has been explained beside a run that took other options."""
    folder = tmp_path_factory.mktemp("explained")
    shutil.copytree(finished, folder / "run")
    shutil.copytree(finished, folder / "other")
    path = folder / "other" / "architecture.json"
    document = json.loads(path.read_text())
    document["choices"]["0>1"] = "skip_connect"
    path.write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage, "RANDOM", 14)
        patched.setattr(interruption, "install", lambda: None)
        with pytest.raises(SystemExit, match="0"):
            main(["explain", str(folder / "run"), str(folder / "other"), "--train", "1"])
    return folder / "run"


@pytest.fixture(scope="module")
def document(explained) -> dict:
    return json.loads((explained / "explanation.json").read_text())


def test_every_other_option_has_its_cost_and_its_score(explained, document) -> None:
    run = Run.open(explained)
    space, cost, architecture = run.problem.space, run.target.cost, run.architecture()
    assert [entry["choice"] for entry in document["choices"]] == [c.name for c in space.choices]
    for row, entry in enumerate(document["choices"]):
        assert len(entry["alternatives"]) == 4
        for one in entry["alternatives"]:
            chosen = space.chosen(architecture)
            chosen[row] = space.choices[row].options.index(one["option"])
            other = space.architecture(chosen)
            difference_ms = cost.latency_ms(other) - cost.latency_ms(architecture)
            assert one["difference_ms"] == pytest.approx(difference_ms, abs=1e-9)
            assert -1 <= one["score"] <= 1
            assert one["error"] >= 0
        assert 0 <= entry["certainty"]["probability"] <= 1
    trained = [a for c in document["choices"] for a in c["alternatives"] if "trained" in a]
    assert len(trained) == 1
    assert -1 <= trained[0]["trained"] <= 1


def test_the_scores_are_those_that_the_search_ranks_by(explained, document) -> None:
    from hwnas.pipeline.search import finished_search

    run = Run.open(explained)
    searched = finished_search(run)
    space, architecture = run.problem.space, run.architecture()
    entry = document["choices"][2]
    chosen = space.chosen(architecture)
    one = entry["alternatives"][0]
    chosen[2] = space.choices[2].options.index(one["option"])
    before, after = searched.rank([architecture, space.architecture(chosen)])
    assert one["score"] == pytest.approx(after - before, abs=1e-6)


def test_runs_are_compared(document) -> None:
    by_name = {entry["choice"]: entry for entry in document["choices"]}
    assert by_name["1>2"]["agreement"]["count"] == 2
    assert document["agreement"]["runs"] == 2
    assert document["agreement"]["shared"] in (1.0, pytest.approx(5 / 6))


def test_the_trained_network_is_looked_into(explained, document) -> None:
    stored = np.load(explained / "predictions.npz")
    samples = sum(one["samples"] for one in document["calibration"]["bins"])
    assert samples == len(stored["targets"])
    accuracy = (stored["targets"] == stored["predicted"]).mean()
    assert document["robustness"]["clean"]["score"] == pytest.approx(accuracy)
    assert len(document["robustness"]["rows"]) == 15
    maps = np.load(explained / "attributions.npz")
    assert maps["gradients"].shape == (len(maps["places"]), 28, 28)
    assert document["notes"] == []
    assert set(document["importance"]["latency"]) == {c["choice"] for c in document["choices"]}


def test_the_report_has_both_chapters(explained) -> None:
    page = report(explained).read_text()
    assert all(f"{chapter}</h2>" in page for chapter in CHAPTERS)
    assert "Reliability diagram" in page
    assert len(page) < 1_000_000


def test_what_cannot_be_explained_is_left_out_and_named(finished, tmp_path, monkeypatch) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "weights.safetensors").unlink()
    for library in ("captum", "sklearn"):
        monkeypatch.setitem(sys.modules, library, None)
    found = explain(Run.open(tmp_path / "run"))
    assert all(a["score"] is None for c in found["choices"] for a in c["alternatives"])
    assert all(a["difference_ms"] for c in found["choices"] for a in c["alternatives"][:1])
    words = " ".join(found["notes"])
    assert "no checkpoint of a finished search" in words
    assert "not trained yet" in words
    page = report(tmp_path / "run").read_text()
    assert f"{CHAPTERS[0]}</h2>" in page and f"{CHAPTERS[1]}</h2>" not in page


def test_runs_of_other_spaces_are_refused(finished, tmp_path) -> None:
    shutil.copytree(finished, tmp_path / "other")
    config = tmp_path / "other" / "config.toml"
    config.write_text(config.read_text().replace('"nasbench201"', '"darts"'))
    config.write_text(config.read_text().replace("cells = 1", "cells = 3"))
    with pytest.raises(InputError, match="different search spaces"):
        explain(Run.open(finished), [Run.open(tmp_path / "other")])
    assert not (finished / "explanation.json").exists()
