"""Controls are chosen within the budget, trained like the run's model and compared with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers.runs import settings, table_file

import hwnas
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.selection import NetworkCosts
from hwnas.config import load_config
from hwnas.controls.handmade import FAMILIES
from hwnas.deploy.export import read_metadata
from hwnas.errors import InputError
from hwnas.pipeline import control_choice
from hwnas.pipeline.control_choice import SEARCHED, Control, control_names
from hwnas.pipeline.controls import compare_with_controls
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import is_finished
from hwnas.runs import interruption, progress
from hwnas.spaces.networks import Network

SPACE = "nasbench201"
MOST_PARAMS = 16_000
"""Parameters of a network whose latency is the budget, in these tests."""


def measured_by_size(run: Run, network: Network, budget_ms: float | None) -> NetworkCosts:
    """In place of a measurement: a latency in proportion to the number of parameters."""
    params = sum(tensor.numel() for tensor in network.parameters())
    latency_ms = run.target.budget_ms() * params / MOST_PARAMS
    return NetworkCosts(NetworkLatency.stated(latency_ms, "by size"))


@pytest.fixture(scope="module", autouse=True)
def by_size():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control_choice, "measure_costs", measured_by_size)
        # One family is enough here; tests of hand-made networks have them all.
        patch.setattr(control_choice, "FAMILIES", {"resnet": FAMILIES["resnet"]})
        yield


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """The folder of a finished run with two random networks."""
    folder = tmp_path_factory.mktemp("controls")
    more = ["controls=2", "budget={fraction=0.7}", "search.steps=6", "check.measure_seconds=2"]
    more += ["search.max_measured=24", "data.train_limit=200"]
    config = load_config(None, settings(SPACE, *more))
    hwnas.run(config, folder / "run", table=table_file(SPACE, folder), show_progress=False)
    return folder / "run"


@pytest.fixture
def run_folder(compared, tmp_path) -> Path:
    """A copy of the run."""
    shutil.copytree(compared, tmp_path / "run")
    return tmp_path / "run"


def document_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "controls.json").read_text())


def controls_of(folder: Path) -> dict[str, Control]:
    names = control_names(Run.open(folder))
    files = (folder / "controls" / name / "control.json" for name in names)
    return {
        name: Control.from_json(json.loads(file.read_text()))
        for name, file in zip(names, files, strict=True)
    }


def test_a_result_has_the_figures_of_each_control_that_there_is(compared) -> None:
    document, found = document_of(compared), hwnas.load(compared).controls
    exist = {name for name, one in document["controls"].items() if one["error"] is None}
    assert set(found) == {SEARCHED} | exist
    for name, one in found.items():
        expected = document["searched"] if name == SEARCHED else document["controls"][name]
        assert one == {
            "score": expected["score"],
            "latency_ms": expected["measured"]["value_ms"],
        }


def test_every_control_is_within_the_budget_and_trained(compared) -> None:
    document = document_of(compared)
    assert list(document["controls"]) == [
        "random-1", "random-2", "most-parameters", "most-macs", "resnet",
    ]  # fmt: skip
    for name, entry in document["controls"].items():
        assert entry["error"] is None
        assert entry["params"] <= MOST_PARAMS
        assert entry["alone_ms"] <= document["budget_ms"]
        assert 0 <= entry["score"] <= 1
        assert entry["measured"]["value_ms"] > 0
        if entry["same_as"] is None:
            model = onnx.load(compared / "controls" / f"{name}.onnx")
            assert read_metadata(model)["control"] == name
            assert entry["training_s"] > 0


def test_the_largest_network_is_at_least_as_large_as_all_random_ones(compared) -> None:
    entries = document_of(compared)["controls"]
    random = [entries[name]["params"] for name in ("random-1", "random-2")]
    assert entries["most-parameters"]["params"] >= max(random)


def test_a_hand_made_network_is_the_widest_within_the_budget(compared) -> None:
    options = Run.open(compared).problem.space.options
    width = document_of(compared)["controls"]["resnet"]["width"]
    wider = FAMILIES["resnet"].build(options, width + 1)
    assert sum(tensor.numel() for tensor in wider.parameters()) > MOST_PARAMS


def test_random_networks_over_the_budget_are_drawn_again(compared) -> None:
    run, texts = Run.open(compared), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "MOST_PARAMS", 8000)
        chosen = [control_choice.choose(run, f"random-{i}", [], texts.append) for i in range(6)]
    assert all(control.params <= 8000 for control in chosen if control.error is None)
    assert len(texts) > 6


def test_a_family_whose_narrowest_network_exceeds_the_budget_is_left_out(compared) -> None:
    run = Run.open(compared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control_choice, "FAMILIES", {"darts-v2": FAMILIES["darts-v2"]})
        patch.setitem(globals(), "MOST_PARAMS", 100)
        control = control_choice.choose(run, "darts-v2", [], print)
    assert control.error is not None
    assert "no width was measured to keep the budget" in control.error
    assert not control.is_trained_itself


def test_differences_are_those_of_the_scores(compared) -> None:
    document = document_of(compared)
    searched = document["searched"]["score"]
    check = json.loads((compared / "check.json").read_text())
    assert searched == pytest.approx(check["accuracy"]["onnx"])
    for entry in document["controls"].values():
        found = entry["difference"]
        assert found["value"] == pytest.approx(searched - entry["score"])
        assert found["low"] <= found["value"] <= found["high"]
    random = document["random"]
    scores = [document["controls"][name]["score"] for name in ("random-1", "random-2")]
    assert random["mean"] == pytest.approx(sum(scores) / 2)
    assert random["equal_time"]["drawn_from"] == 2
    assert random["equal_time"]["networks"] >= 1


def test_the_same_network_is_trained_once(compared) -> None:
    controls = controls_of(compared)
    trained = [c for c in controls.values() if c.is_trained_itself]
    choices = [tuple(sorted(c.choices.items())) for c in trained if c.choices is not None]
    assert len(set(choices)) == len(choices)
    architecture = json.loads((compared / "architecture.json").read_text())["choices"]
    assert all(c.same_as == SEARCHED for c in controls.values() if c.choices == architecture)


def test_a_run_without_its_comparison_is_not_finished(run_folder) -> None:
    assert is_finished(Run.open(run_folder))
    (run_folder / "controls.json").unlink()
    assert not is_finished(Run.open(run_folder))


@pytest.mark.slow
def test_an_interrupted_comparison_continues_where_it_stopped(run_folder) -> None:
    controls = run_folder / "controls"
    weights = (controls / "resnet" / "weights.safetensors").read_bytes()
    shutil.rmtree(controls / "resnet")
    (controls / "resnet.onnx").unlink()
    others = {path: path.stat().st_mtime_ns for path in controls.glob("*.onnx")}
    stopping = Stopping("resnet: loss")
    with pytest.raises(interruption.Interrupted):
        compare_with_controls(Run.open(run_folder, stage=stopping))
    assert not (controls / "resnet.onnx").exists()
    stopping.patch.undo()
    compare_with_controls(Run.open(run_folder))
    assert (controls / "resnet" / "weights.safetensors").read_bytes() == weights
    assert {path: path.stat().st_mtime_ns for path in others} == others


class Stopping:
    """A stage that asks for the end in the middle of a control, when it shows a certain text."""

    def __init__(self, start: str) -> None:
        self.start, self.patch = start, pytest.MonkeyPatch()

    @contextmanager
    def __call__(self, title: str) -> Iterator[progress.Advance]:
        yield self.advance

    def advance(self, done: int, total: int, text: str) -> None:
        if text.startswith(self.start) and done % 100 > 40:
            self.patch.setattr(interruption, "requested", lambda: True)


@pytest.mark.parametrize(
    "space,setting",
    [(SPACE, "latency.device_measurements='x.csv'"), ("vit", "train.inherit=true")],
)
def test_controls_that_cannot_be_compared_are_refused(space, setting, tmp_path) -> None:
    config = load_config(None, settings(space, "controls=1", setting))
    with pytest.raises(InputError, match="controls are trained from scratch and measured on this"):
        hwnas.run(config, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
