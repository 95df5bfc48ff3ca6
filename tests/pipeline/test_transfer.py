"""Trainings that begin with weights of another network, and that learn from a teacher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.runs import settings
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.pipeline.run import Run
from hwnas.pipeline.train import train, training_of
from hwnas.pipeline.transfer import check_transfer, teacher_of_file
from hwnas.runs.run_folder import RunFolder

LIMITS = ["data.train_limit=64", "data.test_limit=20", "train.batch_size=32"]


def run_with(folder: Path, *more: str) -> Run:
    """A run whose architecture is decided."""
    config = load_config(None, settings("mbconv", *LIMITS, *more))
    files = RunFolder(folder)
    files.create()
    run = Run(config, files)
    architecture = run.problem.space.sample(np.random.default_rng(0))
    files.write_json(files.architecture, architecture.to_json())
    return run


def test_a_training_begins_with_the_weights_of_another_run(tmp_path) -> None:
    run = run_with(tmp_path / "first", "train.learning_rate=1e-12", "train.ema_decay=0")
    torch.manual_seed(1)
    other = {
        k: v.clone() for k, v in run.problem.space.network(run.architecture()).state_dict().items()
    }
    name, wide = next((k, v) for k, v in other.items() if v.dim() == 4)
    other[name] = torch.cat([wide, wide])
    dropped = next(k for k in other if k.endswith("bias"))
    del other[dropped]
    save_file(other, tmp_path / "other.safetensors")
    again = run_with(
        tmp_path / "again", f"train.from={tmp_path}/other.safetensors",
        "train.learning_rate=1e-12", "train.ema_decay=0",
    )  # fmt: skip
    check_transfer(again)
    train(again)
    weights = load_file(again.folder.weights)
    torch.testing.assert_close(weights[name], wide, rtol=1e-4, atol=1e-6)
    lines = map(json.loads, again.folder.history.read_text().splitlines())
    (record,) = [line for line in lines if line["event"] == "transfer"]
    taken = {one["name"]: one["taken"] for one in record["tensors"]}
    assert (taken[name], taken[dropped]) == ("part", "nothing")
    assert sum(value == "whole" for value in taken.values()) == len(taken) - 2


def saved_teacher(path: Path, classes: int = 10, batch: int = 4) -> nn.Module:
    torch.manual_seed(2)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, classes)).eval()
    teacher[1].weight.data *= 4
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1),
    ]
    weights = [
        numpy_helper.from_array(tensor.detach().numpy(), name)
        for name, tensor in (("w", teacher[1].weight), ("b", teacher[1].bias))
    ]
    ends = [("x", [batch, 1, 28, 28]), ("y", [batch, classes])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ends]
    graph = helper.make_graph(nodes, "teacher", values[:1], values[1:], weights)
    opsets = [helper.make_opsetid("", 18)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    return teacher


def test_a_teacher_with_a_fixed_batch_answers_batches_of_any_size(tmp_path) -> None:
    teacher = saved_teacher(tmp_path / "teacher.onnx")
    run = run_with(tmp_path / "run", f"train.teacher={tmp_path}/teacher.onnx")
    check_transfer(run)
    inputs = torch.randn(7, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(
            teacher_of_file(run, tmp_path / "teacher.onnx")(inputs), teacher(inputs)
        )


def test_the_teacher_has_its_share_of_the_loss(tmp_path) -> None:
    teacher = saved_teacher(tmp_path / "teacher.onnx")
    run = run_with(
        tmp_path / "run", f"train.teacher={tmp_path}/teacher.onnx", "train.distillation=0.25",
        "train.temperature=2.0", "train.label_smoothing=0.0",
    )  # fmt: skip
    network = run.problem.space.network(run.architecture()).eval()
    training = training_of(run, network, run.config.train)
    inputs, targets = training.batches.batch(0)
    with torch.no_grad():
        outputs = network(inputs)
        soft = (teacher(inputs) / 2).softmax(1)
        distance = 4 * F.kl_div((outputs / 2).log_softmax(1), soft, reduction="batchmean")
        expected = 0.75 * F.cross_entropy(outputs, targets) + 0.25 * distance
        torch.testing.assert_close(training._loss(inputs, targets), expected)


@pytest.mark.parametrize(
    "setting, words",
    [
        ("train.from={folder}/none.safetensors", "no such file"),
        ("train.from={folder}/teacher.onnx", "not a safetensors file"),
        ("train.teacher={folder}/wide.onnx", "do not suit the data"),
        ("train.teacher={folder}/net.pt", "a teacher is an ONNX model"),
    ],
)
def test_files_that_do_not_suit_are_refused_at_the_start(setting, words, tmp_path) -> None:
    saved_teacher(tmp_path / "teacher.onnx")
    saved_teacher(tmp_path / "wide.onnx", classes=12)
    with pytest.raises(InputError, match=words):
        check_transfer(run_with(tmp_path / "run", setting.format(folder=tmp_path)))


def test_weights_of_an_unrelated_network_are_refused(tmp_path) -> None:
    save_file({"unknown": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no tensor of this file"):
        train(run_with(tmp_path / "run", f"train.from={tmp_path}/other.safetensors"))
