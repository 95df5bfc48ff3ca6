"""A finished run as an object: its model, its answers, further training, export and check."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession

import hwnas
from hwnas.config import load_config
from hwnas.deploy.export import read_metadata
from hwnas.errors import InputError
from hwnas.pipeline.problem import read_dataset
from hwnas.pipeline.result import Result


@pytest.fixture(scope="module")
def result(finished) -> Result:
    return hwnas.load(finished)


@pytest.fixture(scope="module")
def dataset(finished):
    """The data of the run, as its settings name them."""
    config = load_config(finished / "config.toml")
    return read_dataset(config.data, config.seed)


def onnx_outputs(model: Path, inputs: torch.Tensor) -> np.ndarray:
    session = InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


def test_it_states_what_the_files_of_the_run_do(result, finished) -> None:
    check = json.loads((finished / "check.json").read_text())
    metrics = json.loads((finished / "metrics.json").read_text())
    assert result.verdict == check["verdict"]
    assert result.latency_ms == check["measured"]["value_ms"]
    assert result.budget_ms == check["budget_ms"]
    assert (result.metric, result.score) == ("accuracy", metrics["accuracy"])
    assert result.report == finished / "report.html"
    assert result.task == "image-classification"
    assert len(result.classes) == 10
    assert result.controls == {}


def test_it_is_shown_with_verdict_latency_and_score(result) -> None:
    for text in (repr(result), result._repr_html_()):
        for fact in (result.verdict, "latency", "budget", "accuracy", "parameters"):
            assert fact in text
    hostile = Result.__new__(Result)
    hostile.__dict__.update(result.__dict__, folder=Path("<script>"))
    assert "<script>" not in hostile._repr_html_()


def test_its_module_and_predictions_are_those_of_the_exported_model(
    result, dataset, finished
) -> None:
    inputs = dataset.normalise(dataset.test.inputs)
    expected = onnx_outputs(finished / "model.onnx", inputs)
    with torch.no_grad():
        found = result.model(inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert b"hwnas" not in pickle.dumps(result.model)
    names = [dataset.classes[index] for index in expected.argmax(axis=1)]
    assert result.predict(dataset.test.inputs).tolist() == names
    probabilities = result.predict_proba(dataset.test.inputs)
    softmax = torch.from_numpy(expected).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, softmax, atol=1e-4)


def test_it_exports_what_other_programs_read(result, dataset, finished, tmp_path) -> None:
    inputs = dataset.normalise(dataset.test.inputs[:8])
    expected = onnx_outputs(finished / "model.onnx", inputs)
    same = result.export(tmp_path / "same.onnx")
    assert same.read_bytes() == (finished / "model.onnx").read_bytes()
    program = torch.export.load(result.export(tmp_path / "program.pt2")).module()
    np.testing.assert_allclose(program(inputs).detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    small = result.export(tmp_path / "small.onnx", "int8")
    assert small.stat().st_size != same.stat().st_size
    assert np.corrcoef(onnx_outputs(small, inputs).ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    "path, variant, words",
    [
        ("model.pkl", "fp32", ".onnx"),
        ("model.pt2", "int8", ".onnx"),
        ("model.onnx", "int3", "no such variant"),
        ("missing/model.onnx", "fp32", "no such folder"),
    ],
)
def test_exports_that_make_no_sense_are_refused(result, tmp_path, path, variant, words) -> None:
    with pytest.raises(InputError, match=words):
        result.export(tmp_path / path, variant)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_further_training_makes_a_run_of_its_own(result, dataset, finished, tmp_path) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    names = np.array(dataset.classes)[dataset.train.targets]
    # Inputs are normalised as in the run, whatever the new samples are like.
    tuned = result.fine_tune(
        (dataset.train.inputs // 8, names), 2, out=tmp_path / "tuned", show_progress=False
    )
    assert {p.name: p.read_bytes() for p in finished.iterdir() if p.is_file()} == before
    assert tuned.folder == tmp_path / "tuned"
    assert tuned.report.exists()
    assert tuned.classes == result.classes
    old, new = result.model.state_dict(), tuned.model.state_dict()
    moved = [key for key in old if not torch.equal(old[key], new[key])]
    assert set(moved) == set(old)
    # Its start is this run's weights: a rate of almost 0 changes almost nothing.
    almost = result.fine_tune(
        dataset, 1, learning_rate=1e-9, out=tmp_path / "almost", show_progress=False
    )
    for key, value in almost.model.state_dict().items():
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, old[key], rtol=1e-4, atol=1e-6)
    properties = [read_metadata(onnx.load(r.folder / "model.onnx")) for r in (result, tuned)]
    for name in ("input_mean", "input_std", "classes"):
        assert properties[0][name] == properties[1][name]


@pytest.mark.parametrize(
    "inputs, targets, words",
    [
        (np.zeros((20, 1, 28, 28), np.uint8), np.full(20, "Spaceship"), "Spaceship"),
        (np.zeros((20, 1, 28, 28), np.uint8), np.full(20, 10), "10"),
        (np.zeros((20, 1, 27, 28), np.uint8), np.zeros(20, int), "28, 28"),
        (np.zeros((20, 1, 28, 28), np.float32), np.zeros(20, int), "uint8"),
        (np.zeros((20, 1, 28, 28), np.uint8), np.zeros(19, int), "19"),
    ],
)
def test_samples_that_do_not_fit_leave_no_folder(result, tmp_path, inputs, targets, words) -> None:
    with pytest.raises(InputError, match=words):
        result.fine_tune((inputs, targets), 1, out=tmp_path / "tuned", show_progress=False)
    assert not (tmp_path / "tuned").exists()


def test_an_interruption_of_further_training_leaves_no_folder(
    result, dataset, tmp_path, monkeypatch
) -> None:
    def interrupted(run) -> None:
        assert run.folder.weights.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("hwnas.pipeline.fine_tuning.export", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.fine_tune(dataset, 1, out=tmp_path / "tuned", show_progress=False)
    assert not (tmp_path / "tuned").exists()


def test_folders_that_hold_something_are_not_written_to(result, dataset, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something"):
        result.fine_tune(dataset, 1, out=tmp_path, show_progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_it_can_be_checked_again(finished, tmp_path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    copy = hwnas.load(tmp_path / "run")
    before = copy.latency_ms
    document = copy.check(budget_ms=1e-6, show_progress=False)
    assert document["verdict"] == copy.verdict == "fail"
    assert copy.latency_ms == document["measured"]["value_ms"] != before


def test_folders_without_a_finished_run_are_refused(finished, tmp_path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"config\.toml: no such file"):
            hwnas.load(path)
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "check.json").unlink()
    with pytest.raises(InputError, match=r"check\.json.*hwnas check"):
        hwnas.load(tmp_path / "run")
