"""A trained network is shrunk to a budget, from Python and from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from helpers.command_line import refused
from helpers.plain_networks import ResNet
from helpers.tiny import table_of
from safetensors.torch import save_file
from torch import nn

import hwnas
from hwnas.deploy.export import read_metadata
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.export import export
from hwnas.pipeline.shrink_formats import Formats, write_formats
from hwnas.pipeline.variants import require_measurable
from hwnas.runs import interruption
from hwnas.runs.run_folder import RunFolder
from hwnas.shrinking.space import ShrinkSpace, shrink_space

SETTINGS = {
    "shrink.rounds": 2,
    "shrink.step": 2,
    "shrink.most_operators": 40,
    "shrink.importance_batches": 2,
    "search.batch_size": 16,
    "search.candidates": 2,
    "search.max_measured": 1,
    "search.ranking_images": 40,
    "search.recalibration_batches": 2,
    "train.batch_size": 16,
    "latency.measure_seconds": 5.0,
    "check.measure_seconds": 20.0,
    "check.max_accuracy_drop": 1.0,
    "threads": 1,
}


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise whose brightness tells the class; float32, as the network reads it."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 3
    noise = rng.normal(0, 0.5, (count, 1, 8, 8)) + (classes - 1)[:, None, None, None]
    return noise.astype(np.float32), classes


def make() -> nn.Module:
    """The network of the command line's tests, without training."""
    torch.manual_seed(0)
    return ResNet(1, 1, 3, (4, 4, 6))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model, (x, y) = make(), images(96)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(25):
        loss = F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def space(trained) -> ShrinkSpace:
    return shrink_space(trained, torch.zeros(2, 1, 8, 8), step=2, most_operators=40)


@pytest.fixture(scope="module")
def table(space, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "table.json"
    table_of(space).save(path)
    return path


def shrink(model: nn.Module, out: Path, table: Path | None, **given: Any) -> hwnas.Result:
    arguments = {
        "validation": images(30, seed=1),
        "budget_ms": 1e6,
        "epochs": 1,
        "settings": SETTINGS,
        "table": table,
        "show_progress": False,
    }
    return hwnas.shrink(model, images(96), out, **arguments | given)


@pytest.fixture(scope="module")
def finished(trained, table, space, tmp_path_factory) -> hwnas.Result:
    """Shrunk to a budget of the table, which is far above what anything takes here."""
    return shrink(trained, tmp_path_factory.mktemp("runs") / "shrunk", table)


def events(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_a_budget_that_is_kept_already_takes_nothing_away(finished, trained) -> None:
    assert finished.verdict == "pass"
    assert [record["step"] for record in events(finished.folder, "shrink")] == [1, 2]
    (original,) = events(finished.folder, "original")
    shapes = {name: tuple(value.shape) for name, value in trained.state_dict().items()}
    assert {n: tuple(v.shape) for n, v in finished.model.state_dict().items()} == shapes
    x, y = images(30, seed=1)
    with torch.no_grad():
        accuracy = (trained(torch.from_numpy(x)).argmax(1).numpy() == y).mean()
    assert original["supernet_accuracy"] == pytest.approx(accuracy)
    document = json.loads((finished.folder / "check.json").read_text())
    gates = {gate["name"]: gate["value"] for gate in document["gates"]}
    assert "What was taken away" in finished.report.read_text()
    drop = accuracy - finished.score
    assert gates["accuracy_drop_from_original"] == pytest.approx(drop)


def test_the_same_call_continues_and_another_model_is_refused(finished, trained, table) -> None:
    before = (finished.folder / "check.json").stat().st_mtime_ns
    assert shrink(trained, finished.folder, table).verdict == "pass"
    assert (finished.folder / "check.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another configuration"):
        shrink(make(), finished.folder, table)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(trained, table, tmp_path, monkeypatch):
    """Stopped in the recovery between the rounds; measured latencies do not decide here."""
    settings = SETTINGS | {"shrink.recovery_epochs": 2}
    whole = shrink(trained, tmp_path / "whole", table, settings=settings)
    asked = iter([False] * 8 + [True])
    monkeypatch.setattr(interruption, "requested", lambda: next(asked, False))
    with pytest.raises(interruption.Interrupted):
        shrink(trained, tmp_path / "stopped", table, settings=settings)
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / "architecture.json").exists()
    resumed = shrink(trained, tmp_path / "stopped", table, settings=settings)
    files = [(one.folder / "weights.safetensors").read_bytes() for one in (whole, resumed)]
    assert files[0] == files[1]


class Wide:
    """A network whose latency follows from its layers, its data, and tables by the layers' MACs."""

    step = 16
    settings = SETTINGS | {"shrink.most_operators": 12, "search.max_measured": 4}

    def __init__(self, out: Path) -> None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 48, 3, 1, 1), nn.ReLU(), nn.Conv2d(48, 64, 3, 2, 1), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)]
        self.model, self.latency_ms = nn.Sequential(*layers, *head), 1.0
        x, y = images(96)
        self.data = np.repeat(np.repeat(x, 2, 2), 2, 3), y
        optimizer = torch.optim.Adam(self.model.parameters(), 3e-3)
        for _ in range(20):
            outputs = self.model(torch.from_numpy(self.data[0]))
            loss = F.cross_entropy(outputs, torch.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.latency_ms = self.shrunk(out, 1e6).latency_ms

    def shrunk(self, out: Path, budget_ms: float | list[float], **settings: Any) -> hwnas.Result:
        settings = self.settings | {"shrink.step": self.step} | settings
        path = out.with_suffix(".json")
        self.table(settings["shrink.step"], settings.get("shrink.resolutions", [])).save(path)
        return hwnas.shrink(
            self.model,
            self.data,
            out,
            budget_ms=budget_ms,
            epochs=1,
            settings=settings,
            table=path,
            show_progress=False,
        )

    def table(self, step: int, resolutions: list[float]) -> LatencyTable:
        space = shrink_space(
            self.model,
            torch.zeros(2, 1, 16, 16),
            step=step,
            most_operators=self.settings["shrink.most_operators"],
            resolutions=resolutions,
        )
        macs = {one.spec: one.macs for one in space.options.measured}
        scale = self.latency_ms / space.params_and_macs(space.whole)[1]
        return table_of(space, cost=lambda spec: 1e-4 + scale * macs[spec])


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Wide:
    return Wide(tmp_path_factory.mktemp("wide") / "run")


@pytest.mark.slow
def test_channels_go_until_the_measured_budget_is_kept(wide, tmp_path) -> None:
    result = wide.shrunk(tmp_path / "run", 0.8 * wide.latency_ms)
    assert result.verdict in ("pass", "inconclusive")
    parameters = [sum(p.numel() for p in one.parameters()) for one in (wide.model, result.model)]
    assert parameters[1] < parameters[0]
    assert len(result.predict(wide.data[0][:5])) == 5


@pytest.mark.slow
def test_a_family_has_a_checked_network_for_each_budget(wide, tmp_path) -> None:
    result = wide.shrunk(tmp_path / "run", [1e6, 0.8 * wide.latency_ms])
    (smaller,) = result.family
    assert len(events(result.folder, "elastic")) > 0
    assert not events(smaller.folder, "train")
    parameters = [sum(p.numel() for p in one.model.parameters()) for one in (result, smaller)]
    assert parameters[1] < parameters[0]
    assert result.verdict == "pass" and smaller.verdict in ("pass", "inconclusive")
    assert "What was taken away" in smaller.report.read_text()


@pytest.mark.slow
def test_a_smaller_input_is_resized_inside_the_model(wide, tmp_path) -> None:
    """Channels stay, so that only the size can keep the budget."""
    settings = {"shrink.step": 64, "shrink.resolutions": [0.5]}
    result = wide.shrunk(tmp_path / "run", 0.7 * wide.latency_ms, **settings)
    assert result.verdict in ("pass", "inconclusive")
    chosen = json.loads((result.folder / "architecture.json").read_text())["choices"]
    assert chosen["input size"] == "8x8"
    assert isinstance(next(result.model.children()), nn.Upsample)
    assert result.model(torch.zeros(2, 1, 16, 16)).shape == (2, 3)
    assert len(result.predict(wide.data[0][:5])) == 5
    assert "Inputs of 16x16 are read at 8x8" in result.report.read_text()


@pytest.mark.slow
def test_int8_lets_a_wider_network_keep_the_budget(wide, tmp_path) -> None:
    settings = {"shrink.variant": "int8-mixed"}
    assert not (wide.shrunk(tmp_path / "whole", 1e6, **settings).folder / "formats.json").exists()
    result = wide.shrunk(tmp_path / "run", 0.75 * wide.latency_ms, **settings)
    assert result.verdict in ("pass", "inconclusive")
    assert "convolutions and matrix products are in int8" in result.report.read_text()


def test_a_network_is_exported_in_the_formats_that_were_chosen(finished, tmp_path) -> None:
    folder = tmp_path / "quantised"
    shutil.copytree(finished.folder, folder)
    exact = finished.predict_proba(images(30, seed=1)[0])
    result = hwnas.Result(folder, finished._run.given)
    nodes = [node.name for node in onnx.load(folder / "model.onnx").graph.node]
    first, *others = [name for name in nodes if "conv" in name.lower()]
    write_formats(RunFolder(folder), Formats((first,), 0.5, 30.0, len(others), len(others) + 1))
    export(result._run)
    made = onnx.load(folder / "model.onnx")
    assert read_metadata(made)["variant"] == "int8-mixed"
    assert inspect_model(folder / "model.onnx").precision == "int8"
    read = {name for node in made.graph.node if node.name == first for name in node.input}
    weights = [one for one in made.graph.initializer if one.name in read]
    assert onnx.TensorProto.FLOAT in {one.data_type for one in weights}
    document = result.check(show_progress=False)
    assert document["predicted_ms"] is not None
    assert result.score == document["accuracy"]["onnx"]
    np.testing.assert_allclose(result.predict_proba(images(30, seed=1)[0]), exact, atol=0.1)
    with pytest.raises(InputError, match="formats of its own"):
        require_measurable(result._run)


def test_formats_are_refused_where_they_cannot_be_measured(trained, table, tmp_path) -> None:
    settings = SETTINGS | {"shrink.variant": "int8-mixed"}
    with pytest.raises(InputError, match=r"shrink\.variant"):
        shrink(trained, tmp_path / "run", table, runtime="torch-cpu", settings=settings)
    assert not (tmp_path / "run").exists()


def test_a_budget_below_what_can_remain_is_refused_with_what_remains(trained, table, tmp_path):
    with pytest.raises(InputError, match=r"below the latency that remains.* at least [\d.e-]+ ms"):
        shrink(trained, tmp_path / "low", table, budget_ms=1e-6)
    assert not (tmp_path / "low" / "architecture.json").exists()


@pytest.mark.parametrize("budgets_ms", [[], [1.0, 2.0, 1.0]])
def test_budgets_that_make_no_family_are_refused(trained, budgets_ms, tmp_path) -> None:
    with pytest.raises(InputError, match="budget_ms"):
        shrink(trained, tmp_path / "run", None, budget_ms=budgets_ms)
    assert not (tmp_path / "run").exists()


def test_data_that_do_not_fit_are_refused(trained, table, tmp_path) -> None:
    wide = np.zeros((40, 2, 8, 8), np.float32), np.arange(40) % 3
    with pytest.raises(InputError, match="does not run on inputs"):
        hwnas.shrink(trained, wide, tmp_path / "wide", budget_ms=1.0)
    four = images(96)[0], np.arange(96) % 4
    with pytest.raises(InputError, match="outputs do not suit"):
        hwnas.shrink(trained, four, tmp_path / "four", budget_ms=1.0)
    with pytest.raises(InputError, match="knows nothing of these data"):
        shrink(make(), tmp_path / "untrained", table)


MODULE = """
import sys
sys.path.insert(0, {tests!r})
from helpers.plain_networks import ResNet
def net():
    return ResNet(1, 1, 3, (4, 4, 6))
def nothing():
    return None
def broken():
    raise ValueError("no such thing")
"""


@pytest.fixture
def command(tmp_path, trained, table) -> list[str]:
    """The arguments of a command that shrinks the trained network."""
    tests = str(Path(__file__).parents[1])
    (tmp_path / "nets.py").write_text(MODULE.format(tests=tests))
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    x, y = images(96)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    sets = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    return [
        "shrink", f"{tmp_path}/nets.py:net", "--weights", f"{tmp_path}/net.safetensors",
        "--data", "npz", "--data-path", f"{tmp_path}/data.npz", "--budget-ms", "1e6",
        "--epochs", "1", "--table", str(table), "--out", f"{tmp_path}/run", *sets,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_ends_with_a_verdict(command, tmp_path, cli) -> None:
    code, out, err = cli(*command, "--json")
    assert code == 0, err
    assert json.loads(out)["verdict"] == "pass"


@pytest.mark.parametrize(
    "change, words",
    [
        ({1: "nets"}, "expected MODULE:FUNCTION"),
        ({1: "{folder}/nets.py:nothing"}, "returns no model"),
        ({1: "{folder}/nets.py:broken"}, "no such thing"),
        ({1: "{folder}/nets.py:missing"}, "no such function"),
        ({1: "not_there:net"}, "cannot be imported"),
        ({3: "{folder}/data.npz"}, "not the weights of this model"),
        ({3: "{folder}/none.safetensors"}, "no such file"),
        ({5: "cifar11"}, "data.name"),
    ],
)
def test_what_cannot_be_shrunk_is_refused_in_one_line(command, change, words, tmp_path, cli):
    for place, text in change.items():
        command[place] = text.format(folder=tmp_path)
    refused(cli(*command), words)
    assert not (tmp_path / "run").exists()
