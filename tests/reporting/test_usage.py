"""The program in a report: it runs on the model in the run's folder and reads its real metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.run_folders import CLASSES, WrittenRun, program_of, write_model
from torch import nn

from hwnas.data import Dataset, Split
from hwnas.deploy.export import export_network, set_metadata
from hwnas.errors import InputError
from hwnas.reporting.usage import PROGRAMS, ModelFacts, program
from hwnas.spaces import build_space
from hwnas.tasks import TASKS, task_of

TOKENS = ("<padding>", "<unknown>", "good", "bad", "text")


def test_program_of_a_page_names_the_class_of_a_sample(
    run: WrittenRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = program_of(run.html())
    assert len(source.splitlines()) == 10
    assert "'images'" in source
    assert "(3, 8, 6)" in source
    assert "# 3: 'trouser', 'ankle boot', 'sandal'" in source
    monkeypatch.chdir(run.folder.path)
    # A pixel of 0 becomes -mean / std, which is largest in the last channel.
    exec(source, {})
    assert capsys.readouterr().out == "sandal\n"
    bright = "np.uint8(255) * (np.arange(3) == 1).astype(np.uint8).repeat(48).reshape(3, 8, 6)"
    exec(source.replace("np.zeros((3, 8, 6), np.uint8)", bright), {})
    assert capsys.readouterr().out == "ankle boot\n"


def test_program_needs_no_other_packages(run: WrittenRun) -> None:
    imported = re.findall(r"^import (.*)$", program_of(run.html()), re.MULTILINE)
    assert imported == ["json", "numpy as np", "onnxruntime"]


def test_page_without_a_model_has_no_such_chapter(run: WrittenRun) -> None:
    run.folder.model.unlink()
    assert "How to use this model" not in run.page().text


def test_damaged_model_is_an_error_that_names_the_file(run: WrittenRun) -> None:
    run.folder.model.write_bytes(b"no model")
    with pytest.raises(
        InputError, match=r"not an ONNX model.*model\.onnx|model\.onnx.*not an ONNX"
    ):
        run.html()


def test_model_without_metadata_gets_a_program(run: WrittenRun) -> None:
    model = onnx.load(run.folder.model)
    del model.metadata_props[:]
    onnx.save(model, run.folder.model)
    assert "print(outputs.shape)" in program_of(run.html())
    run.page()


@pytest.mark.parametrize("classes", ["a\nimport os", "'''", "\u2028x", '"#', "</pre><script>"])
def test_class_names_cannot_leave_their_comment(run: WrittenRun, classes: str) -> None:
    write_model(run.folder.model, [classes, "b"])
    source = program_of(run.html())
    assert len(source.splitlines()) == 10
    compile(source, "page", "exec")
    assert "import os" not in source.splitlines()
    run.page()


def test_images_with_16_bits_are_divided_by_their_largest_value() -> None:
    properties = {"task": "image-classification", "largest_value": "65535"}
    source = "\n".join(program(ModelFacts("model.onnx", "images", (1, 8, 6), properties)))
    assert "np.uint16)  # your image: channels, height, width; 0 to 65535" in source
    assert "(sample / 65535 - " in source


def dataset_of(task: str) -> Dataset:
    """Twelve samples of a task, small enough for tiny networks."""
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3
    images = rng.integers(0, 256, (12, 3, 16, 16), dtype=np.uint8)
    features = rng.normal(size=(12, 1, 16, 16)).astype(np.float32)
    tokens = rng.integers(0, len(TOKENS), (12, 6))
    inputs, targets, more = {
        "image-classification": (images, labels, {}),
        "audio-keywords": (features, labels, {}),
        "segmentation": (images, rng.integers(0, 3, (12, 16, 16)), {}),
        "text-classification": (
            tokens,
            labels,
            {"vocabulary": TOKENS, "reading": {"words": r"\w+", "lower_case": True}},
        ),
    }[task]
    split = Split(inputs, targets)
    return Dataset("tiny", CLASSES, split, split, task, **more)


@pytest.mark.parametrize(
    "name, space",
    [
        ("image-classification", "mbconv"),
        ("audio-keywords", "mbconv"),
        ("segmentation", "mbconv"),
        ("text-classification", "sequence"),
    ],
)
def test_programs_of_tasks_run_on_exported_networks(
    name: str,
    space: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hwnas.pipeline.problem import data_sizes

    task = task_of(dataset_of(name))
    small = {"layout": "small", "width_multiplier": 0.25, "stage_layers": 1, "head_channels": 8}
    options = {"mbconv": small, "sequence": {"layers": 2, "channels": 4}}[space]
    built = build_space(space, options | data_sizes(task))
    network = built.network(built.sample(np.random.default_rng(0))).eval()
    model = export_network(network, built.options.input_shape, (task.input_name, task.output_name))
    properties = {key: json.dumps(value) for key, value in task.properties().items()}
    set_metadata(model, {"task": name, **properties})
    onnx.save(model, tmp_path / "model.onnx")
    facts = ModelFacts.read(tmp_path / "model.onnx")
    assert facts is not None
    monkeypatch.chdir(tmp_path)
    exec("\n".join(program(facts)), {})
    printed = capsys.readouterr().out
    assert any(name in printed for name in CLASSES)


@pytest.mark.parametrize("kind, targets", [("tokens", 6), ("signal", 6), ("tokens", 1)])
def test_programs_of_tokens_and_of_labels_run(
    kind: str, targets: int, tmp_path, monkeypatch
) -> None:
    from hwnas.data.own_data import dataset_of as own_data

    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 5, (12, 6)) if kind == "tokens" else rng.normal(size=(12, 2, 6))
    labels = rng.integers(0, 3, (12, targets))
    task = task_of(own_data((inputs, labels), kind=kind, classes=CLASSES))
    torch.manual_seed(0)
    vectors = [nn.Embedding(5, 6), nn.Linear(6, 6)] if kind == "tokens" else [nn.Flatten(2)]
    layers = [*vectors, nn.Conv1d(6 if kind == "tokens" else 2, 3, 1)]
    if targets == 1:
        layers += [nn.Flatten(), nn.Linear(18, 3)]
    network = nn.Sequential(*layers).eval()
    shape = task.dataset.input_shape
    model = export_network(network, shape, (task.input_name, task.output_name))
    properties = {key: json.dumps(value) for key, value in task.properties().items()}
    set_metadata(model, {"task": task.name, **properties})
    onnx.save(model, tmp_path / "model.onnx")
    facts = ModelFacts.read(tmp_path / "model.onnx")
    assert facts is not None
    monkeypatch.chdir(tmp_path)
    variables: dict = {}
    exec("\n".join(program(facts)), variables)
    outputs = variables["outputs"][0]
    assert outputs.shape == ((3, 6) if targets > 1 else (3,))
    assert "classes)[outputs" in program(facts)[-1] or "classes[outputs" in program(facts)[-1]


def test_every_task_has_a_program() -> None:
    assert PROGRAMS.keys() == TASKS.keys()
