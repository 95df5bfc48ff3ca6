"""A limit of time decides settings; where the time is over, training ends with what it has."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.estimators import SEQUENCES, TINY
from safetensors.torch import load_file

import hwnas
from hwnas.config import load_config
from hwnas.estimators import ImageClassifier, SignalClassifier
from hwnas.pipeline import time_limit
from hwnas.pipeline.result import load
from hwnas.pipeline.run import Run
from hwnas.runs.checkpoints import load_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "estimators.md"
SAMPLES = 120
CODES = np.arange(SAMPLES) % 2
WAVES = np.random.default_rng(0).normal(size=(SAMPLES, 2, 16)) + 2.0 * CODES[:, None, None]
UNSTATED = [setting for setting in SEQUENCES if not setting.startswith("train.epochs")]


class Clock:
    """A clock that goes on by a second each time that it is looked at."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The run of a fit whose time was over before training began."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    with warnings.catch_warnings():
        # A verdict may be inconclusive on a machine that is busy.
        warnings.filterwarnings("ignore", "the check of the model")
        SignalClassifier(minutes=0.001, settings=UNSTATED, out=folder).fit(WAVES, CODES)
    return folder


def test_a_network_is_trained_for_an_epoch_at_least(kept) -> None:
    config = load_config(kept / "config.toml")
    assert config.train.epochs == 1
    assert any("the time was over" in note for note in config.notes)
    assert load(kept).predict(WAVES[:4]).shape == (4,)


@pytest.mark.parametrize("seconds, expected", [(-5.0, 1), (0.0, 1), (1e9, None)])
def test_epochs_fill_the_time_up_to_a_bound(kept, monkeypatch, seconds, expected) -> None:
    run = Run.open(kept)
    per_epoch = len(run.problem.dataset.train) // run.config.train.batch_size
    most = min(time_limit.MOST_EPOCHS, time_limit.MOST_STEPS // per_epoch)
    assert time_limit._epochs_within(run, seconds) == (most if expected is None else expected)
    # With the clock above every step takes a second, and looking at it takes another.
    monkeypatch.setattr(time_limit, "time", Clock())
    monkeypatch.setattr(time_limit, "PACE_S", 1e9)
    step_s = (time_limit.PACE_STEPS + 1) / time_limit.PACE_STEPS
    assert time_limit._epochs_within(run, 5.5 * per_epoch * step_s) == 5


def test_training_that_takes_too_long_ends_with_its_latest_checkpoint(
    kept, tmp_path, monkeypatch
) -> None:
    shutil.copytree(kept, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    for path in (run.folder.weights, run.folder.metrics):
        path.unlink()
    train = run.config.train.model_copy(update={"epochs": 6, "checkpoint_every": 1})
    run.config = run.config.model_copy(update={"train": train})
    per_epoch = len(run.problem.dataset.train) // train.batch_size
    saved: dict[int, torch.Tensor] = {}

    def remembered(folder: Path, stage: str):
        found = load_checkpoint(folder, stage)
        if found is not None:
            saved.update(found[1]["average"])
            saved["step"] = found[0]
        return found

    monkeypatch.setattr(time_limit, "load_checkpoint", remembered)
    monkeypatch.setattr(time_limit, "time", Clock())
    time_limit.train_until(run, 2.5 * per_epoch)
    done = saved.pop("step")
    assert 2 * per_epoch <= done <= 2.5 * per_epoch
    assert run.config.train.epochs == load_config(run.folder.config).train.epochs == 2
    weights = load_file(run.folder.weights)
    for name, value in weights.items():
        torch.testing.assert_close(value, saved[name])
    assert run.folder.read_json(run.folder.metrics)["epochs"] == 2


@pytest.mark.slow
def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys) -> None:
    """As it stands, but for settings that are made tiny."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    settings = (*TINY, "space={name='nasbench201', cells=1, channels=4}")

    def tiny(budget_ms: float, minutes: float) -> ImageClassifier:
        assert (budget_ms, minutes) == (0.05, 2)
        return ImageClassifier(settings=settings)

    monkeypatch.setattr(hwnas, "ImageClassifier", tiny, raising=False)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the check of the model")
        exec(compile(code, str(PAGE), "exec"), {})
    out = capsys.readouterr().out
    assert re.fullmatch(r"accuracy \d+\.\d%, verdict \w+\n", out)
    assert (tmp_path / "digits.onnx").stat().st_size > 1000
