"""The learning curve: it changes no weights, costs little, and is recorded once for each step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_space

from hwnas.config import TrainConfig
from hwnas.data import Batches, Dataset, Split
from hwnas.runs.run_folder import RunFolder
from hwnas.tasks import task_of
from hwnas.training.curve import PASSES_OF_A_STEP, SHARE_OF_WORK, LearningCurve
from hwnas.training.train import Training

BATCH = 8


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Images whose class is the position of a bright stripe."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = rng.integers(0, 60, (240, 1, 9, 7), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, 0, 3 * label : 3 * label + 3] += 150
    split = Split(images, labels.astype(np.int64))
    return Dataset("stripes", ("top", "middle", "bottom"), split, split)


def training(dataset: Dataset, epochs: int, *, measured: bool = True) -> Training:
    torch.manual_seed(1)
    space = tiny_space("nasbench201")
    network = space.network(space.sample(np.random.default_rng(3)))
    config = TrainConfig(epochs=epochs, batch_size=BATCH, learning_rate=0.05, ema_decay=0.9)
    batches = Batches(dataset.train, dataset, BATCH, 5, augment=None)
    often = replace(LearningCurve.of(task_of(dataset), batches, BATCH, seed=7), every=60)
    curve = often if measured else None
    return Training(network, config, batches, seed=11, curve=curve)


def test_curve_leaves_the_weights_and_the_random_state_as_they_are(dataset: Dataset) -> None:
    measured, plain = training(dataset, 3), training(dataset, 3, measured=False)
    states = []
    for work in (measured, plain):
        records = [work.advance() for _ in range(work.steps)]
        states.append(torch.random.get_rng_state())
        assert any("test_score" in record for record in records) == (work is measured)
    assert torch.equal(*states)
    for name, value in plain.average.state_dict().items():
        assert torch.equal(measured.average.state_dict()[name], value), name
    for name, value in plain.network.state_dict().items():
        assert torch.equal(measured.network.state_dict()[name], value), name


def test_scores_rise_on_data_that_are_learnt(dataset: Dataset, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    work = training(dataset, 12)
    work.run(folder, lambda *_: None)
    records = [r for r in folder.read_history() if "test_score" in r]
    assert work.curve is not None
    assert [r["step"] for r in records] == list(work.curve.steps(work.steps))
    assert [r["epoch"] for r in records] == [r["step"] // 30 for r in records]
    assert records[0].keys() >= {"loss", "train_score", "train_samples", "test_samples"}
    assert records[-1]["test_score"] > 0.9
    assert records[-1]["train_samples"] == 100


def test_resumed_training_records_every_step_once(dataset: Dataset, tmp_path: Path) -> None:
    whole, part = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "part")
    histories = []
    for folder in (whole, part):
        folder.create()
        work = training(dataset, 8)
        work.config = work.config.model_copy(update={"checkpoint_every": 50})
        work.run(folder, lambda *_: None)
        if folder is part:
            # As after a crash between the last checkpoint but one and the last.
            newest = max(folder.checkpoints.glob("train-*"))
            for file in newest.iterdir():
                file.unlink()
            newest.rmdir()
            again = training(dataset, 8)
            again.run(folder, lambda *_: None)
            for name, value in work.average.state_dict().items():
                assert torch.equal(again.average.state_dict()[name], value), name
        histories.append([json.dumps(record) for record in folder.read_history()])
    assert histories[0] == histories[1]
    assert any("test_score" in line for line in histories[0])


@pytest.mark.parametrize("samples", [20, 240, 4_000, 30_000])
def test_measuring_computes_a_small_share_of_the_training(samples: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (samples, 1, 2, 2), dtype=np.uint8)
    split = Split(images, np.arange(samples) % 3)
    dataset = Dataset("random", ("a", "b", "c"), split, split)
    batches = Batches(split, dataset, BATCH, 5, augment=None)
    curve = LearningCurve.of(task_of(dataset), batches, BATCH, seed=7)
    assert len(curve.training) == len(curve.test) <= min(1000, samples)
    steps = 1000 * batches.steps_per_epoch
    measured = len(curve.steps(steps)) * (len(curve.training) + len(curve.test))
    assert 0 < measured <= SHARE_OF_WORK * PASSES_OF_A_STEP * steps * BATCH
    assert samples < 4_000 or curve.every == batches.steps_per_epoch
