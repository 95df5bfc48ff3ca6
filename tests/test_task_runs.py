"""Whole runs of every task, on tiny settings: the score bears its name wherever it is told."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from tiny import table_of

from hwnas.config import load_config, shipped_configs
from hwnas.deploy.export import read_metadata
from hwnas.pipeline import run
from hwnas.profiling import profiled_space
from hwnas.tasks import TASKS, task_of
from hwnas.workspace import Run, read_dataset

CONFIGS = [name for name in shipped_configs() if load_config(name).data.path is None]
SETTINGS = [
    "data.train_limit=300",
    "data.test_limit=60",
    "budget.ms=1e6",
    "latency.measure_seconds=3",
    "search.steps=8",
    "search.batch_size=8",
    "search.candidates=2",
    "search.max_measured=1",
    "search.ranking_images=50",
    "search.recalibration_batches=2",
    "train.epochs=1",
    "train.batch_size=16",
    "check.measure_seconds=5",
]


def test_every_task_has_a_configuration() -> None:
    found = {task_of(read_dataset(load_config(name, SETTINGS[:2]))).name for name in CONFIGS}
    assert found == set(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_ends_with_a_checked_model_and_its_own_score(name: str, tmp_path: Path) -> None:
    more = ["space.nodes=2"] if load_config(name).space.name == "rnn" else []
    config = load_config(name, [*SETTINGS, *more])
    table_of(profiled_space(config)).save(tmp_path / "table.json")
    out = tmp_path / "run"
    document = run(config, out, table=tmp_path / "table.json")
    assert document["verdict"] == "pass", document["gates"]
    task = Run.open(out).task
    metric = document["metric"]
    assert metric == task.metric
    score = document[metric]
    assert 0 <= score["onnx"] <= 1 and score["n"] == 60
    assert score["onnx"] == pytest.approx(score["torch"], abs=1e-6)
    gates = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert gates[metric] == gates[f"{metric}_drop"] == "pass"
    assert ("accuracy" in document) == (metric == "accuracy")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["metric"] == metric and metrics[metric] == pytest.approx(score["torch"])
    model = onnx.load(out / "model.onnx")
    names = model.graph.input[0].name, model.graph.output[0].name
    assert names == (task.input_name, task.output_name)
    assert read_metadata(model)["task"] == task.name
    words = metric.replace("_", " ").replace("iou", "IoU")
    assert f"The {words} on the test samples is" in (out / "report.html").read_text()
