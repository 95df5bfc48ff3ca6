"""`hwnas.check`: a module of one's own is exported and compared with itself."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from helpers.model_checks import statuses_of
from torch import nn

import hwnas
from hwnas.config import CheckConfig
from hwnas.errors import InputError
from hwnas.runs.progress import silent

QUICK = {"limits": CheckConfig(measure_seconds=1), "stage": silent}


class TwoInputs(nn.Module):
    """Scores of a picture and of tokens, with a sum beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, picture, tokens):
        found = self.norm(picture.flatten(1).mean(dim=1, keepdim=True) + self.embed(tokens).mean(1))
        scores = self.head(self.dropout(found))
        return {"scores": scores, "more": (found.sum(dim=1),)}


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))


def inputs_of_two():
    return torch.randn(5, 1, 2, 2), torch.randint(0, 100, (5, 7))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_module_with_several_inputs_and_outputs_is_checked(tmp_path, by_name) -> None:
    module, inputs = TwoInputs().train(), inputs_of_two()
    given = dict(zip(("picture", "tokens"), inputs, strict=True)) if by_name else inputs
    out = tmp_path / "checks" / "mine"
    document = hwnas.check(module, given, budget_ms=1000, out=out, **QUICK)
    assert document["verdict"] == "pass", document["gates"]
    statuses = statuses_of(document)
    for name in ("budget", "parity", "sqnr", "agreement", "dynamic_batch"):
        assert statuses[name] == "pass", name
    assert json.loads(json.dumps(document)) == json.loads((out / "check.json").read_text())
    graph = onnx.load(out / "model.onnx").graph
    assert [value.name for value in graph.input] == ["picture", "tokens"]
    assert len(graph.output) == 2
    assert all(part.training for part in module.modules()), "the module is left in its mode"


@pytest.mark.slow
def test_samples_with_labels_give_an_accuracy(tmp_path) -> None:
    module = classifier()
    images = torch.randn(200, 3, 2, 2)
    with torch.no_grad():
        labels = module.eval()(images).argmax(dim=1)
    document = hwnas.check(module, images[:1], data=(images, labels), **QUICK)
    assert document["accuracy"] == {"torch": 1.0, "onnx": 1.0, "n": 200}
    assert document["verdict"] == "pass"
    assert statuses_of(document)["accuracy_above_chance"] == "pass"
    assert document["budget_ms"] is None
    shuffled = labels.numpy()[np.random.default_rng(0).permutation(200)]
    document = hwnas.check(module, images[:1], data=(images.numpy(), shuffled), **QUICK)
    assert document["verdict"] == "inconclusive"


def test_a_budget_that_is_too_small_fails() -> None:
    document = hwnas.check(classifier(), torch.randn(2, 3, 2, 2), budget_ms=1e-6, **QUICK)
    assert document["verdict"] == statuses_of(document)["budget"] == "fail"


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(4, 12) * 2


class DependsOnValues(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_module_for_one_batch_size_is_exported_for_that(tmp_path) -> None:
    example = torch.randn(4, 3, 2, 2)
    with pytest.raises(InputError, match="FixedBatch: the module cannot be.*dynamic_batch=False"):
        hwnas.check(FixedBatch(), example, **QUICK)
    document = hwnas.check(FixedBatch(), example, dynamic_batch=False, **QUICK)
    assert document["verdict"] == "pass"
    assert document["batch"] == 4
    assert statuses_of(document)["dynamic_batch"] == "skipped"


@pytest.mark.parametrize(
    "module, inputs, options, words",
    [
        (DependsOnValues(), torch.randn(2, 3), {}, ["DependsOnValues", "cannot be exported"]),
        (nn.Linear(3, 2), torch.randn(2, 4), {}, ["Linear", "cannot be exported", "4] X [3, 2]"]),
        (nn.Linear(3, 2), (torch.randn(2, 3),) * 2, {}, ["more example inputs", "at most 1"]),
        (nn.Linear(3, 2), np.zeros((2, 3)), {}, ["not an example input", "ndarray"]),
        (TwoInputs(), (torch.randn(2, 1), torch.ones(3, 7, dtype=int)), {}, ["one batch size"]),
        (nn.Linear(3, 2), torch.randn(2, 3), {"runtime": "torch-cpu"}, ["torch-cpu", "ONNX"]),
        (
            nn.Linear(3, 2),
            torch.randn(2, 3),
            {"data": ({"other": np.zeros((2, 3))}, None)},
            ["data do not fit", "input", "other"],
        ),
        (
            nn.Linear(3, 2),
            torch.randn(2, 3),
            {"data": (np.zeros((2, 4), np.float32), None)},
            ["data: input", "the array has the wrong shape"],
        ),
    ],
)
def test_what_cannot_be_checked_is_one_line(module, inputs, options, words) -> None:
    with pytest.raises(InputError) as refused:
        hwnas.check(module, inputs, **options, **QUICK)
    line = str(refused.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
