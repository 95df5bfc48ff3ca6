"""What is finished stays: results are replaced or removed only when that is asked for."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command_line import refused
from helpers.runs import settings, table_file
from safetensors.torch import load_file, save_file

import hwnas
from hwnas.config import load_config
from hwnas.pipeline.check import check
from hwnas.pipeline.export import export
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import is_finished
from hwnas.runs import interruption


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    config = load_config(None, settings("nasbench201"))
    table = table_file("nasbench201", folder)
    hwnas.run(config, folder / "run", table=table, show_progress=False)
    return folder / "run"


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    """A copy of the finished run with a variant."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "variants").mkdir()
    (tmp_path / "run" / "variants" / "model.int8.onnx").write_bytes(b"variant")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes and the modification time of every file but the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }


def retrained(folder: Path) -> None:
    """Change the weights, as another training would."""
    weights = {
        k: v + 1e-3 * torch.ones_like(v)
        for k, v in load_file(folder / "weights.safetensors").items()
    }
    save_file(weights, folder / "weights.safetensors")


def test_resuming_a_finished_run_touches_nothing(cli, run_folder, caplog) -> None:
    before = contents(run_folder)
    with caplog.at_level(logging.INFO, "hwnas"):
        code, out, _ = cli("run", "--resume", "--out", str(run_folder))
    assert contents(run_folder) == before
    assert "already finished, nothing to do" in caplog.text
    assert "verdict: " in out
    assert code in (0, 1, 3)


def test_a_run_with_other_weights_is_not_finished(run_folder) -> None:
    assert is_finished(Run.open(run_folder))
    retrained(run_folder)
    assert not is_finished(Run.open(run_folder))


def test_exporting_the_same_model_again_keeps_everything(cli, run_folder) -> None:
    before = contents(run_folder)
    code, _, err = cli("export", str(run_folder))
    assert code == 0, err
    assert contents(run_folder) == before


def test_variants_of_an_earlier_model_are_removed_only_by_force(cli, run_folder) -> None:
    retrained(run_folder)
    before = contents(run_folder)
    refused(cli("export", str(run_folder)), "variants", "model.int8.onnx", "--force")
    assert contents(run_folder) == before
    code, _, err = cli("export", str(run_folder), "--force")
    assert code == 0, err
    assert not (run_folder / "variants" / "model.int8.onnx").exists()


def test_variants_that_are_not_named_are_removed_only_by_force(cli, run_folder) -> None:
    before = contents(run_folder)
    refused(cli("export", str(run_folder), "--variants", "fp32"), "model.int8.onnx", "--force")
    assert contents(run_folder) == before


def test_trained_weights_are_replaced_only_by_force(cli, run_folder) -> None:
    before = contents(run_folder)
    refused(cli("train", str(run_folder)), "weights.safetensors", "--force")
    assert contents(run_folder) == before


def test_a_searched_folder_is_not_searched_again(finished, run_folder) -> None:
    before = contents(run_folder)
    config = Run.open(run_folder).config
    found = hwnas.search(config, run_folder, resume=True, show_progress=False)
    assert found == Run.open(finished).architecture()
    assert contents(run_folder) == before


def test_the_exported_bytes_depend_on_the_weights_alone(run_folder) -> None:
    run = Run.open(run_folder)
    model = run.folder.model.read_bytes()
    run.folder.model.unlink()
    shutil.rmtree(run_folder / "variants")
    assert export(run).read_bytes() == model


def test_classes_without_a_test_sample_are_warned_of(run_folder) -> None:
    run = Run.open(run_folder)
    dataset = run.problem.dataset
    kept = np.flatnonzero(dataset.test.targets != 3)
    run.problem.dataset = dataclasses.replace(dataset, test=dataset.test.take(kept))
    (warning,) = [w for w in check(run)["warnings"] if "no test sample" in w]
    assert f"class {dataset.classes[3]}:" in warning


def test_an_interrupted_profile_keeps_the_folder_to_be_resumed_in(tmp_path, monkeypatch) -> None:
    config = load_config(None, settings("nasbench201"))
    monkeypatch.setattr(interruption, "_requested", signal.SIGTERM)
    with pytest.raises(interruption.Interrupted, match="everything is saved"):
        hwnas.run(config, tmp_path / "run", show_progress=False)
    assert (tmp_path / "run" / "config.toml").exists()
