"""Whole runs of every task, on tiny settings: the score bears its name wherever it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.run_folders import program_of
from helpers.tiny import table_of
from PIL import Image

from hwnas.config import load_config, shipped_configs
from hwnas.data import Split, load_dataset
from hwnas.data.language import generated_language
from hwnas.deploy.export import read_metadata
from hwnas.pipeline.problem import read_dataset
from hwnas.pipeline.profile import profiled_space
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import run
from hwnas.tasks import TASKS, task_of

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
    found = {
        task_of(read_dataset(c.data, c.seed)).name
        for c in (load_config(name, SETTINGS[:2]) for name in CONFIGS)
    }
    assert found == set(TASKS)


def undecided(document: dict) -> set[str]:
    """The gates that failed or are inconclusive; a model of seconds may be at chance level."""
    return {g["name"] for g in document["gates"] if g["status"] in ("fail", "inconclusive")}


SHORT = ("sequence_ratings",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.slow) for n in CONFIGS]
)
def test_a_run_ends_with_a_checked_model_and_its_own_score(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["space.nodes=2"] if load_config(name).space.name == "rnn" else []
    config = load_config(name, [*SETTINGS, *more])
    table_of(profiled_space(config)).save(tmp_path / "table.json")
    out = tmp_path / "run"
    document = run(config, out, table=tmp_path / "table.json")
    assert undecided(document) <= {f"{document['metric']}_above_chance"}, document["gates"]
    task = Run.open(out).problem.task
    metric = document["metric"]
    assert metric == task.metric
    score = document[metric]
    assert 0 <= score["onnx"] <= 1
    assert score["n"] == 60
    assert score["onnx"] == pytest.approx(score["torch"], abs=1e-6)
    gates = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert (gates[metric], gates[f"{metric}_drop"]) == ("reported", "pass")
    assert document["chance"]["is_above"] == (gates[f"{metric}_above_chance"] == "pass")
    assert bool(document["warnings"]) != document["chance"]["is_above"]
    assert ("accuracy" in document) == (metric == "accuracy")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["metric"] == metric
    assert metrics[metric] == pytest.approx(score["torch"])
    model = onnx.load(out / "model.onnx")
    names = model.graph.input[0].name, model.graph.output[0].name
    assert names == (task.input_name, task.output_name)
    assert read_metadata(model)["task"] == task.name
    words = metric.replace("_", " ").replace("iou", "IoU")
    page = (out / "report.html").read_text()
    assert f"The {words} on the test samples is" in page
    monkeypatch.chdir(out)
    program = program_of(page)
    assert repr(task.input_name) in program
    exec(program, {})
    assert capsys.readouterr().out.strip()


def save_images(folder: Path, split: Split) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(split.inputs):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")


def write_masks(path: Path) -> Path:
    """Generated images of shapes as a folder of one's own."""
    data = load_dataset("generated-segmentation", train_limit=100, test_limit=30)
    for name, split in (("train", data.train), ("test", data.test)):
        save_images(path / name / "images", split)
        (path / name / "masks").mkdir()
        for number, target in enumerate(split.targets):
            mask = Image.fromarray(target.astype(np.uint8))
            mask.save(path / name / "masks" / f"{number}.png")
    (path / "classes.txt").write_text("\n".join(data.classes))
    return path


def write_boxes(path: Path) -> Path:
    data = load_dataset("generated-detection", train_limit=100, test_limit=30)
    for name, split in (("train", data.train), ("test", data.test)):
        save_images(path / name, split)
        annotations = [
            {"image_id": number, "category_id": int(c), "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for number, boxes in enumerate(split.targets.tolist())
            for c, x0, y0, x1, y1 in boxes
            if c >= 0
        ]
        content = {
            "images": [{"id": i, "file_name": f"{i}.png"} for i in range(len(split))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(data.classes)],
            "annotations": annotations,
        }
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def write_text(path: Path) -> Path:
    raw = generated_language(16)
    letters = np.array(raw.vocabulary)[raw.x_train[:400]]
    path.write_text("".join(letters.ravel()))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, name, write",
    [
        ("mbconv_segmentation", "masks", write_masks),
        ("mbconv_detection", "boxes", write_boxes),
        ("rnn_text", "language", write_text),
    ],
)
def test_files_of_one_s_own(
    config: str, name: str, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "data")
    more = ["space.nodes=2"] if config == "rnn_text" else []
    sizes = [s for s in SETTINGS if not s.startswith("data.")]
    settings = [*sizes, f"data.name={name}", f"data.path={path}", *more]
    resolved = load_config(config, settings)
    table_of(profiled_space(resolved)).save(tmp_path / "table.json")
    document = run(resolved, tmp_path / "run", table=tmp_path / "table.json")
    assert undecided(document) <= {f"{document['metric']}_above_chance"}, document["gates"]
