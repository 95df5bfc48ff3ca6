"""The diagnosis of a finished run, from its files to its document and the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.cli.app import main
from hwnas.diagnosis import measures
from hwnas.errors import InputError
from hwnas.pipeline import diagnose as stage
from hwnas.pipeline.diagnose import diagnose
from hwnas.pipeline.run import Run
from hwnas.runs import interruption


@pytest.fixture(scope="module")
def diagnosed(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed")
    shutil.copytree(finished, folder / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage, "SAMPLES", 40)
        patched.setattr(interruption, "install", lambda: None)
        with pytest.raises(SystemExit, match="0"):
            main(["diagnose", str(folder / "run")])
    return folder / "run"


@pytest.fixture(scope="module")
def document(diagnosed) -> dict:
    return json.loads((diagnosed / "diagnosis.json").read_text())


def test_all_groups_are_measured(document) -> None:
    assert document["notes"] == []
    lipschitz, curvature = document["lipschitz"], document["curvature"]
    assert 0 < lipschitz["median"] <= lipschitz["lower"] <= lipschitz["upper"]
    assert curvature["samples"] == 40 and curvature["sharpness"] >= 0
    assert len(curvature["eigenvalues"]) == 3
    assert document["convergence"]["noise"]["batches"] == 8
    assert document["generalisation"]["pac_bayes"] > 0
    assert document["search"]["eigenvalue"] is not None


def test_margins_are_those_of_the_trained_network(diagnosed, document) -> None:
    run = Run.open(diagnosed)
    dataset, network = run.problem.dataset, run.trained_network()
    order = np.random.default_rng(run.seed("diagnosis")).permutation(len(dataset.train))[:40]
    with torch.no_grad():
        logits = network(dataset.normalise(dataset.train.inputs[order])).numpy()
    targets = dataset.train.targets[order]
    own = logits[np.arange(40), targets]
    logits[np.arange(40), targets] = -np.inf
    found = document["generalisation"]["margins"]
    expected = np.quantile(own - logits.max(axis=1), (0.1, 0.5, 0.9))
    assert [found["low"], found["median"], found["high"]] == pytest.approx(expected, abs=1e-4)


def test_the_prior_of_the_bound_is_the_random_start_of_the_training(diagnosed) -> None:
    run = Run.open(diagnosed)
    initial = stage._initial(run, [])
    torch.manual_seed(run.seed("network"))
    expected = run.problem.space.network(run.architecture()).state_dict()
    assert all(torch.equal(initial[name], value) for name, value in expected.items())


def test_the_report_says_what_each_measure_means(diagnosed) -> None:
    page = (diagnosed / "report.html").read_text()
    assert "What theory says</h2>" in page
    assert "largest eigenvalues of the Hessian" in page


def test_without_a_search_or_weights(finished, tmp_path, monkeypatch) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(stage, "SAMPLES", 20)
    for name in ("lipschitz_measures", "curvature_measures", "generalisation_measures"):
        assert callable(getattr(measures, name))
        monkeypatch.setattr(stage, name, lambda trained: None)
    found = diagnose(Run.open(tmp_path / "run"))
    assert found["search"] is None
    assert "no checkpoint of a finished search" in " ".join(found["notes"])
    (tmp_path / "run" / "weights.safetensors").unlink()
    with pytest.raises(InputError, match="`hwnas train` writes it"):
        diagnose(Run.open(tmp_path / "run"))
