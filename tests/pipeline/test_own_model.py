"""Searches in a model of one's own: data, loss, metric and evaluation are given in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.command_line import refused
from helpers.own_networks import OwnNetwork, own_space
from helpers.tiny import table_of
from torch import nn

import hwnas
from hwnas.errors import InputError
from hwnas.nn import Choice, Repeat
from hwnas.pipeline.kept_samples import NOTE
from hwnas.spaces.traced.space import space_of
from hwnas.tasks.own import score_of

SETTINGS = {
    "search.batch_size": 8,
    "search.candidates": 2,
    "search.max_measured": 1,
    "search.ranking_images": 20,
    "search.recalibration_batches": 1,
    "search.checkpoint_every": 4,
    "train.batch_size": 16,
    "train.learning_rate": 0.05,
    "latency.measure_seconds": 5.0,
    "check.measure_seconds": 20.0,
    "check.min_accuracy": 0.001,
    "threads": 1,
}


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 3
    noise = rng.integers(0, 100, (count, 1, 9, 7))
    return (noise + 60 * classes[:, None, None, None]).astype(np.uint8), classes


def model(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return OwnNetwork(classes)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "table.json"
    table_of(own_space()).save(path)
    return path


def search(out: Path, table: Path | None, **given: Any) -> Any:
    arguments = {
        "train": images(120),
        "validation": images(40, seed=1),
        "budget_ms": 1e6,
        "steps": 6,
        "epochs": 1,
        "settings": SETTINGS,
        "show_progress": False,
    }
    return hwnas.search(model(), out, table=table, **arguments | given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, table) -> Any:
    out = tmp_path_factory.mktemp("runs") / "own"
    return search(out, table)


def test_a_run_ends_with_a_checked_model_that_has_nothing_of_hwnas(finished) -> None:
    assert finished.verdict == "pass"
    assert finished.task == "image-classification"
    module = finished.model
    assert not any(type(m).__module__.startswith("hwnas") for m in module.modules())
    dataset = hwnas.dataset_of(images(120), images(40, seed=1))
    inputs = dataset.normalise(dataset.test.inputs)
    with torch.no_grad():
        classes = module(inputs).argmax(dim=1).numpy()
    assert (classes.astype(str) == finished.predict(dataset.test.inputs)).all()
    assert finished.score == pytest.approx((classes == dataset.test.targets).mean())


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}


def test_a_finished_run_is_left_as_it_is_and_another_one_is_refused(finished, table) -> None:
    before = times_of(finished.folder)
    assert search(finished.folder, table).verdict == "pass"
    assert times_of(finished.folder) == before
    for change in ({"steps": 7}, {"train": images(90)}):
        with pytest.raises(InputError, match="started with another configuration"):
            search(finished.folder, table, **change)


def test_the_folder_alone_can_be_checked_and_reported_and_says_what_it_lacks(finished, cli) -> None:
    folder = str(finished.folder)
    code, _, err = cli("check", f"{folder}/model.onnx", "--run", folder)
    assert code == 0, err
    document = json.loads((finished.folder / "check.json").read_text())
    assert NOTE in document["notes"]
    assert document["accuracy"]["onnx"] == pytest.approx(finished.score)
    (finished.folder / "report.html").unlink()
    refused(
        cli("run", f"{folder}/config.toml", "--out", folder, "--resume"),
        "call hwnas.search(model, ...) with the same model again",
    )
    assert cli("report", folder)[0] == 0


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_like_another_one(
    finished, table, tmp_path, monkeypatch
) -> None:
    from hwnas.pipeline import stages

    def interrupted(run: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "own", table)
    assert search(tmp_path / "own", table).verdict == "pass"
    for name in ("architecture.json", "weights.safetensors"):
        assert (tmp_path / "own" / name).read_bytes() == (finished.folder / name).read_bytes()


def absolute_error(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(dim=1) - targets).abs().double().mean())


def test_loss_and_metric_of_one_s_own_train_and_judge(table, tmp_path) -> None:
    losses = []

    def focal(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log_p = F.log_softmax(outputs, dim=1).gather(1, targets[:, None])
        losses.append(len(targets))
        return (-((1 - log_p.exp()) ** 2) * log_p).mean()

    result = search(
        tmp_path / "own", table, loss=focal, metric=absolute_error, direction="minimize"
    )
    assert len(losses) > 6
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["metric"] == "absolute_error_score"
    assert result.score == score_of(metrics["absolute_error"], "minimize")
    assert result.predict(images(3)[0]).shape == (3,)
    document = json.loads((result.folder / "check.json").read_text())
    assert document["absolute_error_score"]["onnx"] == pytest.approx(result.score)


@pytest.mark.slow
def test_an_evaluation_that_fails_costs_its_candidate_alone(table, tmp_path) -> None:
    seen: list[int] = []

    def evaluate(module: nn.Module) -> float:
        """More parameters are better, but a large kernel breaks the simulator."""
        parameters = sum(p.numel() for p in module.parameters())
        seen.append(parameters)
        with torch.no_grad():
            module.head.bias.fill_(7.0)
        if len(seen) > 1 and len(seen) % 3 == 0:
            raise ValueError("the simulator broke")
        return float("nan") if len(seen) == 4 else parameters

    result = search(
        tmp_path / "own",
        table,
        train=None,
        validation=None,
        epochs=None,
        example_inputs=torch.zeros(1, 1, 9, 7),
        evaluate=evaluate,
        steps=8,
        strategy="random",
        settings=SETTINGS | {"minutes": 5.0},
    )
    history = (tmp_path / "own" / "history.jsonl").read_text().splitlines()
    failed = [r for r in map(json.loads, history) if r["event"] == "failed"]
    reasons = {record["reason"] for record in failed}
    assert any("ValueError: the simulator broke" in reason for reason in reasons)
    assert any("did not return a finite number, got nan" in reason for reason in reasons)
    assert result.verdict == "pass"
    assert torch.equal(result.model.head.bias, torch.full((3,), 7.0))
    metrics = json.loads((tmp_path / "own" / "metrics.json").read_text())
    assert metrics["evaluate"] == sum(p.numel() for p in result.model.parameters())


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = Choice({"small": nn.Conv2d(1, 4, 3), "large": nn.Conv2d(1, 4, 5, padding=1)})
        self.row = nn.Linear(3, 4)
        self.last = nn.Linear(8, 3)

    def forward(self, image: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.image(image).mean((2, 3)), self.row(row)], dim=1))


@pytest.mark.slow
def test_controls_of_a_model_with_several_inputs_are_those_of_its_space(tmp_path) -> None:
    rng = np.random.default_rng(0)
    pixels, classes = images(120)
    rows = rng.standard_normal((120, 3)).astype(np.float32)
    result = hwnas.search(
        TwoInputs(),
        tmp_path / "own",
        train=((pixels, rows), classes),
        validation=((pixels, rows), classes),
        budget_ms=1e6,
        steps=6,
        epochs=1,
        settings=SETTINGS | {"controls": 1},
        show_progress=False,
    )
    assert result.verdict == "pass"
    controls = json.loads((tmp_path / "own" / "controls.json").read_text())["controls"]
    assert controls["most-parameters"]["error"] is None
    for name in ("resnet", "inverted-bottlenecks", "darts-v2"):
        assert "hand-made networks read images, got several inputs" in controls[name]["error"]


class Tabular(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, 8)
        self.stage = Repeat(lambda i: nn.Sequential(nn.Linear(8, 8), nn.ReLU()), 1, 2)
        self.last = Choice({"linear": nn.Linear(8, outputs), "deep": Deep(outputs)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.stage(self.first(x)))


class Deep(nn.Sequential):
    def __init__(self, outputs: int) -> None:
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs))


@pytest.mark.slow
def test_rows_of_a_table_reach_the_model_as_rows(tmp_path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 5)).astype(np.float32)
    space = space_of(Tabular(5, 1), torch.zeros(1, 5))
    table_of(space).save(tmp_path / "table.json")
    torch.manual_seed(0)
    result = hwnas.search(
        Tabular(5, 1),
        tmp_path / "own",
        train=(x, x[:, 0] + 0.1),
        table=tmp_path / "table.json",
        budget_ms=1e6,
        steps=4,
        epochs=1,
        settings=SETTINGS | {"check.min_accuracy": 0.0},
        show_progress=False,
    )
    assert result.verdict in ("pass", "inconclusive")  # it hardly learns anything
    assert result.task == "regression"
    assert result.predict(x[:3]).shape == (3,)


WITHOUT_DATA = {
    "train": None,
    "validation": None,
    "example_inputs": torch.zeros(1, 1, 9, 7),
    "evaluate": lambda module: 1.0,
}
REFUSED = {
    "no data": ({"train": None, "validation": None}, "train: nothing to learn from"),
    "another shape": (
        {"train": (images(40)[0].repeat(2, axis=1), np.arange(40) % 3), "validation": None},
        r"the model: stem: this part of the model does not run on inputs \(2, 2, 9, 7\)",
    ),
    "other classes": (
        {"train": (images(40)[0], np.arange(40) % 4), "validation": None},
        "model: the model's outputs do not suit image-classification, expected 4 values",
    ),
    "a loss that is not finite": (
        {"loss": lambda y, t: (y.sum() * 0).log().sum()},
        "loss: it is not finite at the first batch",
    ),
    "a loss that is no scalar": (
        {"loss": lambda y, t: y},
        r"loss: it cannot be computed of outputs \(8, 3\) and targets \(8,\)",
    ),
    "a loss that raises": ({"loss": lambda y, t: F.l1_loss(y, "x")}, "loss: it cannot be computed"),
    "a metric that raises": ({"metric": lambda y, t: y / "x"}, "metric lambda: it does not take"),
    "a metric without direction": ({"metric": lambda y, t: 7.0}, "metric lambda.*state direction"),
    "a metric that is not finite": (
        {"metric": lambda y, t: float("nan"), "direction": "minimize"},
        "metric lambda: not a usable number",
    ),
    "an unknown direction": ({"direction": "up"}, "direction: unknown direction"),
    "no function": ({"loss": "cross entropy"}, "loss: not a function"),
    "an evaluation that raises": (
        {"evaluate": lambda module: module.missing},
        "evaluate: the function raised, got AttributeError",
    ),
    "an evaluation without a number": (
        {"evaluate": lambda module: float("inf")},
        "evaluate: the function did not return a finite number",
    ),
    "examples unlike the data": (
        {"example_inputs": torch.zeros(1, 1, 5, 7)},
        r"example_inputs: the training samples have another shape, expected \(N, 1, 9, 7\)",
    ),
    "controls without data": (
        WITHOUT_DATA | {"settings": {"controls": 2}},
        "settings: controls: this needs training samples",
    ),
    "an unknown setting": ({"settings": {"search.stepz": 1}}, "search.stepz"),
    "an evaluation with a gradient's strategy": (
        {"evaluate": lambda module: 1.0, "strategy": "darts"},
        "strategy: needs the gradient of a supernet",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line_before_anything_long_begins(case, table, tmp_path) -> None:
    given, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as refusal:
        search(tmp_path / "own", table, **given)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "own").exists()


def test_arguments_of_a_model_are_refused_beside_a_configuration(tmp_path) -> None:
    with pytest.raises(InputError, match="hwnas.search: steps: this is for a model"):
        hwnas.search("default", tmp_path, steps=3)
